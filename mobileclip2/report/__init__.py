"""Reports and pictures of what a pipeline has materialized."""

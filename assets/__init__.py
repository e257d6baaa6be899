"""The pipeline's assets, one module for each stage. Each asset calls the library and reports the result as metadata."""

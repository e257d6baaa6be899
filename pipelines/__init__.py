"""Dagster: definitions, resources, jobs and profiles."""

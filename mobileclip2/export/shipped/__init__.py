"""Modules that are copied into exports. They only need numpy and the standard library."""

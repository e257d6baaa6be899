"""Modules that are copied into exports: each runs alone, with numpy and the standard library."""

"""Measurements that support the claims of the documentation: ``python -m benchmarks <name> [--json]``."""

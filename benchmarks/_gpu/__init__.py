"""The sections of ``python -m benchmarks gpu``: one module for each section, with ``run(section)``."""

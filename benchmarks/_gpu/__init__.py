"""The sections of ``python -m benchmarks gpu``: one module each, with ``run(section)``, most important first."""

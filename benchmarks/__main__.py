"""``python -m benchmarks <name> [--json]``: one module a claim."""

from __future__ import annotations

import argparse
import importlib
import json
import pkgutil
import sys
from pathlib import Path


def main() -> int:
    names = sorted(
        name for _, name, _ in pkgutil.iter_modules([str(Path(__file__).parent)]) if not name.startswith("_")
    )
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=names)
    parser.add_argument("--json", action="store_true", help="numbers for programs")
    chosen = parser.parse_args()
    module = importlib.import_module(f"benchmarks.{chosen.name}")
    numbers = module.measure()
    print(json.dumps(numbers, indent=1) if chosen.json else module.show(numbers))
    return 0


if __name__ == "__main__":
    sys.exit(main())

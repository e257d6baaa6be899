"""``python -m benchmarks <name> [--json]``: one module per claim. Some modules have arguments of their own."""

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
    named = next((word for word in sys.argv[1:] if word in names), None)
    module = importlib.import_module(f"benchmarks.{named}") if named else None
    if module and hasattr(module, "arguments"):
        module.arguments(parser)
    chosen = vars(parser.parse_args())
    assert module
    as_json = chosen.pop("json")
    del chosen["name"]
    numbers = module.measure(**chosen)
    print(json.dumps(numbers, indent=1) if as_json else module.show(numbers))
    return 0 if not hasattr(module, "holds") or module.holds(numbers) else 1


if __name__ == "__main__":
    sys.exit(main())

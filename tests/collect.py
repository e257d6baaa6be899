"""Run ``gc --delete`` in a process of its own: ``python -m tests.collect PROFILE``."""

from __future__ import annotations

import sys
from pathlib import Path

from mobileclip2.config.profile import load
from mobileclip2.engine import gc
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from tests.run import REFUSED


def main() -> int:
    pipeline = Pipeline(load(Path(sys.argv[1])))
    try:
        deleted = gc.delete(pipeline, gc.unneeded([pipeline], set(), []))
    except UserError as error:
        print(f"mobileclip2 gc: {error}", flush=True)
        return REFUSED
    print("gc deleted", *(each.path for each in deleted), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

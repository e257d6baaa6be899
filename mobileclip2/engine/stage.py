"""The code of a stage, found by the stage's name.

The engine does not import :mod:`mobileclip2.stages`: stages import the engine, and bring torch. Each of its modules that an
asset names has a function ``run(work)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from mobileclip2.progress import doing


def load_stage(stage: str) -> Callable[..., None]:
    """Import the module of a stage, which loads torch, and return its ``run``."""
    with doing("importing"):
        run: Callable[..., None] = importlib.import_module(f"mobileclip2.stages.{stage}").run
    return run

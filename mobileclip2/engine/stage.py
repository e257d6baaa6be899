"""Load the code of a stage by its name.

Stages import torch and the engine, so the engine imports them only when it runs them. Each stage module defines ``run(batch)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from mobileclip2.progress import doing


def stage_module(stage: str) -> str:
    """Return the name of the module of a stage."""
    return f"mobileclip2.stages.{stage}"


def load_stage(stage: str) -> Callable[..., None]:
    """Import the module of a stage and return its ``run``."""
    with doing("importing"):
        run: Callable[..., None] = importlib.import_module(stage_module(stage)).run
    return run

"""Load the code of a stage by its name.

Stages import torch and the engine, so the engine imports them only when it runs them. Each stage module defines ``run(batch)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from mobileclip2.progress import doing


def load_stage(stage: str) -> Callable[..., None]:
    """Import the module of a stage and return its ``run``."""
    with doing("importing"):
        run: Callable[..., None] = importlib.import_module(f"mobileclip2.stages.{stage}").run
    return run

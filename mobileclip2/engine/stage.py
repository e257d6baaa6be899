"""Load the code of a stage by its name.

Stages import torch and the engine, so the engine imports them only when it runs them. Each stage module defines ``run(batch)``.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from mobileclip2.progress import doing

if TYPE_CHECKING:
    from mobileclip2.engine.graph import Asset

STAGES = "mobileclip2.stages"


def stage_modules(assets: Iterable[Asset]) -> list[str]:
    """Return the names of the modules that these assets need, for a server that forks processes."""
    return sorted({f"{STAGES}.{asset.stage}" for asset in assets})


def load_stage(stage: str) -> Callable[..., None]:
    """Import the module of a stage and return its ``run``."""
    with doing("importing"):
        run: Callable[..., None] = importlib.import_module(f"{STAGES}.{stage}").run
    return run

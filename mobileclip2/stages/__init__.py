"""One module a stage, each with ``run(work)``: reads finished inputs, writes missing parts, closes manifests.

A stage writes shard by shard and skips shards that are already whole, so a killed run goes on where it stopped. Where ``run``
is a :class:`~mobileclip2.stages.by_shard.ByShard`, several processes may share the shards.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from mobileclip2.progress import doing

if TYPE_CHECKING:
    from mobileclip2.graph import Asset
    from mobileclip2.pipeline import Work


def stage_run(asset: Asset) -> Callable[[Work], None]:
    """What computes an asset; loads torch."""
    with doing("importing"):
        run: Callable[[Work], None] = importlib.import_module(f"mobileclip2.stages.{asset.stage}").run
    return run

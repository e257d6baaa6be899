"""Teachers: pretrained weights that are pinned by hash, or a locked-tower model that is trained here."""

from __future__ import annotations

import dagster as dg

from assets.curves import training_metadata
from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph


def teachers(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define an asset for each teacher."""
    return [
        define(profile, asset, section="teachers", kinds={"pytorch"}, metadata=training_metadata)
        for asset in graph.values()
        if asset.stage == "teacher"
    ]

"""Teacher embeddings: one asset for each teacher and kind of input (views, real captions, synthetic captions)."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph


def teacher_embeddings(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define an asset for each teacher and each kind of input that it embeds."""
    return [
        # the graph page labels a box with the last part of its key, so the group names the teacher
        define(profile, asset, section=f"embeddings_{asset.name}", kinds={"pytorch", "parquet"})
        for asset in graph.values()
        if asset.stage == "teacher_embeddings"
    ]

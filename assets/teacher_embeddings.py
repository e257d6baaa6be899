"""Embeddings of views, real captions and synthetic captions, each its own asset, for each teacher."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph


def teacher_embeddings(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define an asset for each teacher and each kind of input that it embeds."""
    return [
        # the graph page labels a box with the end of its key alone: the group must say whose 'image' it is
        define(profile, asset, section=f"embeddings_{asset.name}", kinds={"pytorch", "parquet"})
        for asset in graph.values()
        if asset.stage == "teacher_embeddings"
    ]

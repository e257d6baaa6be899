"""Students, distilled from the reinforced dataset or trained on the raw pairs."""

from __future__ import annotations

import dagster as dg

from assets.curves import training_metadata
from assets.materialize import define
from mobileclip2.graph import Graph
from mobileclip2.profile import Profile


def students(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    return [
        define(profile, asset, section="students", kinds={"pytorch"}, metadata=training_metadata)
        for asset in graph.values()
        if asset.stage == "student"
    ]

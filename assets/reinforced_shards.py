"""Published reinforced shards, which students learn from."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph


def reinforced_shards(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define an asset for each published reinforced dataset."""
    return [
        define(profile, asset, section="reinforced_dataset", kinds={"webdataset", "parquet"})
        for asset in graph.values()
        if asset.stage == "reinforced_shards"
    ]

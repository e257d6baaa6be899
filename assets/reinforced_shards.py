"""Published reinforced shards, which students learn from."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset


def reinforced_shards(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define a published reinforced dataset."""
    return define(profile, asset, section="reinforced_dataset", kinds={"webdataset", "parquet"})

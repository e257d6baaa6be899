"""Teachers: pretrained weights that are pinned by hash, or a locked-tower model that is trained here."""

from __future__ import annotations

import dagster as dg

from assets.curves import training_metadata
from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset


def teacher(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define a teacher."""
    return define(profile, asset, section="teachers", kinds={"pytorch"}, metadata=training_metadata)

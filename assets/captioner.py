"""Clean caption corpora, and the captioners that are fine-tuned on them."""

from __future__ import annotations

import dagster as dg

from assets.curves import training_metadata
from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset


def caption_corpus(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define a caption corpus."""
    return define(profile, asset, section="captioners", kinds={"webdataset"})


def captioner(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define a captioner."""
    return define(profile, asset, section="captioners", kinds={"pytorch"}, metadata=training_metadata)

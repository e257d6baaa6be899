"""Clean caption corpora, and the captioners that are fine-tuned on them."""

from __future__ import annotations

import dagster as dg

from assets.curves import training_metadata
from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph


def captioners(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define an asset for each caption corpus and each captioner."""
    corpora = [asset for asset in graph.values() if asset.stage == "caption_corpus"]
    models = [asset for asset in graph.values() if asset.stage == "captioner"]
    return [
        *(define(profile, asset, section="captioners", kinds={"webdataset"}) for asset in corpora),
        *(
            define(profile, asset, section="captioners", kinds={"pytorch"}, metadata=training_metadata)
            for asset in models
        ),
    ]

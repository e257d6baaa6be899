"""Teacher embeddings: one asset for each teacher and kind of input (views, real captions, synthetic captions)."""

from __future__ import annotations

import dagster as dg

from assets.checks import Check
from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, Verdict


def teacher_embeddings(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define the embeddings of a teacher for a kind of input."""
    return define(
        profile,
        asset,
        section=f"embeddings_{asset.name}",
        kinds={"pytorch", "parquet"},
        checks=[Check(embeddings_are_sound, blocking=True)],
    )


def embeddings_are_sound(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Fail if embeddings are not normalized, or too many images have the same one."""
    from mobileclip2.stages.data_checks import embeddings_are_sound

    return embeddings_are_sound(pipeline, result)

"""Random parameters of the augmented views, shared by all teachers and students."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from assets.metadata import pictures
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def augmentations(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define the asset ``augmentations``."""
    return define(profile, asset, section="augmentations", kinds={"parquet"}, metadata=views_sheet)


def views_sheet(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Draw the first samples of a group with their views."""
    from mobileclip2.report.sheets import first_samples

    assert result.group is not None
    return pictures(views=first_samples(pipeline, result.group, "views", views=True))

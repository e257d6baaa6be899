"""Random parameters of the augmented views, shared by all teachers and students."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from assets.metadata import pictures
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def augmentations(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define the asset ``augmentations`` if it is in the graph."""
    if "augmentations" not in graph:
        return []
    return [define(profile, graph["augmentations"], section="augmentations", kinds={"parquet"}, metadata=views_sheet)]


def views_sheet(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Draw the first samples of a group with their views."""
    from mobileclip2.report.sheets import views_sheet

    assert result.group is not None
    return pictures(views=views_sheet(pipeline, result.group))

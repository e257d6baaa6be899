"""Synthetic captions that the captioners generate for every image."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from assets.metadata import pictures
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def synthetic_captions(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define an asset for the captions of each captioner."""
    return [
        define(
            profile,
            asset,
            section="synthetic_captions",
            kinds={"pytorch", "parquet"},
            metadata=captions_sheet,
        )
        for asset in graph.values()
        if asset.stage == "synthetic_captions"
    ]


def captions_sheet(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Draw the first samples of a group with the captions of one captioner."""
    from mobileclip2.report.sheets import captions_sheet

    assert result.group is not None
    return pictures(captions=captions_sheet(pipeline, result.asset.name, result.group))

"""The reinforced dataset in the published DR format."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from assets.metadata import pictures
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def reinforced_dataset(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define the asset ``reinforced_dataset`` if it is in the graph."""
    if "reinforced_dataset" not in graph:
        return []
    return [
        define(
            profile,
            graph["reinforced_dataset"],
            section="reinforced_dataset",
            kinds={"webdataset"},
            metadata=reinforced_sheet,
        )
    ]


def reinforced_sheet(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Draw the first samples of a group with views and captions."""
    from mobileclip2.report.sheets import reinforced_sheet

    assert result.group is not None
    return pictures(sample_sheet=reinforced_sheet(pipeline, result.group))

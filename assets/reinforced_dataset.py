"""The reinforced dataset in the published DR format."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def reinforced_dataset(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define the asset ``reinforced_dataset`` if the graph has it."""
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


def reinforced_sheet(pipeline: Pipeline, done: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Return a picture of a group's first samples with views and captions."""
    from mobileclip2.report.sheets import reinforced_sheet

    assert done.group is not None
    return {"sample_sheet": dg.MetadataValue.md(reinforced_sheet(pipeline, done.group))}

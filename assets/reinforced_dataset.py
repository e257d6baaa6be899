"""The reinforced dataset in the published DR format."""

from __future__ import annotations

from functools import partial

import dagster as dg

from assets.materialize import define
from assets.metadata import pictures
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def reinforced_sheet(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Draw the first samples of a group with views and captions."""
    from mobileclip2.report.sheets import first_samples

    assert result.group is not None
    captioners = pipeline.profile.dataset_captioners
    sheet = first_samples(pipeline, result.group, "reinforced samples", views=True, captioners=captioners)
    return pictures(sample_sheet=sheet)


reinforced_dataset = partial(define, section="reinforced_dataset", kinds={"webdataset"}, metadata=reinforced_sheet)

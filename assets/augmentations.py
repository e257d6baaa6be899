"""Random parameters of the augmented views, shared by all teachers and students."""

from __future__ import annotations

from functools import partial

import dagster as dg

from assets.materialize import define
from assets.metadata import pictures
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def views_sheet(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Draw the first samples of a group with their views."""
    from mobileclip2.report.sheets import first_samples

    assert result.group is not None
    return pictures(views=first_samples(pipeline, result.group, "views", views=True))


augmentations = partial(define, section="augmentations", kinds={"parquet"}, metadata=views_sheet)

"""Synthetic captions that the captioners generate for every image."""

from __future__ import annotations

from functools import partial

import dagster as dg

from assets.checks import Check
from assets.materialize import define
from assets.metadata import pictures
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, Verdict


def captions_sheet(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Draw the first samples of a group with the captions of one captioner."""
    from mobileclip2.report.sheets import first_samples

    assert result.group is not None
    sheet = first_samples(pipeline, result.group, "captions", captioners=(result.asset.name,))
    return pictures(captions=sheet)


def captions_vary(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Fail if too many captions are equal or degenerate."""
    from mobileclip2.stages.data_checks import captions_vary

    return captions_vary(pipeline, result)


def captions_fit_images(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Fail if a teacher finds that synthetic captions fit their images much less than real ones."""
    from mobileclip2.stages.caption_scores import captions_fit_images

    return captions_fit_images(pipeline, result)


synthetic_captions = partial(
    define,
    section="synthetic_captions",
    kinds={"pytorch", "parquet"},
    metadata=captions_sheet,
    checks=[Check(captions_vary, blocking=True), Check(captions_fit_images, blocking=True)],
)

"""Raw image-text pairs of the source shards."""

from __future__ import annotations

from functools import partial

import dagster as dg

from assets.checks import Check
from assets.materialize import define
from assets.metadata import pictures
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, Verdict


def sample_sheet(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Draw the first samples of a group."""
    from mobileclip2.report.sheets import first_samples

    assert result.group is not None
    return pictures(sample_sheet=first_samples(pipeline, result.group, "samples"))


def few_samples_are_bad(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Warn if the share of bad samples is above ``checks.bad_samples``, by default half of ``max_bad_share``."""
    from mobileclip2.stages.data_checks import few_samples_are_bad

    return few_samples_are_bad(pipeline, result)


def no_evaluation_pictures(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Warn if a sample has the bytes of a picture of an evaluation set."""
    from mobileclip2.stages.evaluation_pictures import no_evaluation_pictures

    return no_evaluation_pictures(pipeline, result)


raw_shards = partial(
    define,
    section="raw_shards",
    kinds={"webdataset", "parquet"},
    metadata=sample_sheet,
    checks=[Check(few_samples_are_bad, warns=True), Check(no_evaluation_pictures, warns=True)],
)

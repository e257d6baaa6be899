"""Raw image-text pairs of the source shards."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def raw_shards(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define the asset ``raw_shards``."""
    return [
        define(
            profile,
            graph["raw_shards"],
            section="raw_shards",
            kinds={"webdataset", "parquet"},
            metadata=sample_sheet,
            check=few_are_bad,
            check_name="few_samples_are_bad",
        )
    ]


def sample_sheet(pipeline: Pipeline, done: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Return a picture of a group's first samples."""
    from mobileclip2.report.sheets import raw_sheet

    assert done.group is not None
    return {"sample_sheet": dg.MetadataValue.md(raw_sheet(pipeline, done.group))}


def few_are_bad(pipeline: Pipeline, done: MaterializeResult) -> dg.AssetCheckResult:
    """Warn if more than half of the accepted share of samples was skipped."""
    skipped = sum(done.skip_reasons.values())
    share = skipped / max(1, done.samples + skipped)
    return dg.AssetCheckResult(
        # the stage itself stops at the accepted share; this speaks up on the way there
        passed=share <= pipeline.profile.max_bad_share / 2,
        severity=dg.AssetCheckSeverity.WARN,
        check_name="few_samples_are_bad",
        metadata={"share": share, "reasons": dg.MetadataValue.json(done.skip_reasons)},
    )

"""Raw image-text pairs of the source shards."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from assets.metadata import pictures
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def raw_shards(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define the asset ``raw_shards`` if it is in the graph."""
    if "raw_shards" not in graph:
        return []
    return [
        define(
            profile,
            graph["raw_shards"],
            section="raw_shards",
            kinds={"webdataset", "parquet"},
            metadata=sample_sheet,
            check=few_samples_are_bad,
            check_name="few_samples_are_bad",
        )
    ]


def sample_sheet(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Draw the first samples of a group."""
    from mobileclip2.report.sheets import raw_sheet

    assert result.group is not None
    return pictures(sample_sheet=raw_sheet(pipeline, result.group))


def few_samples_are_bad(pipeline: Pipeline, result: MaterializeResult) -> dg.AssetCheckResult:
    """Warn if the share of skipped samples is above half of ``max_bad_share``."""
    skipped = sum(result.skip_reasons.values())
    share = skipped / max(1, result.samples + skipped)
    return dg.AssetCheckResult(
        # the stage fails at max_bad_share; this warning comes earlier
        passed=share <= pipeline.profile.max_bad_share / 2,
        severity=dg.AssetCheckSeverity.WARN,
        check_name="few_samples_are_bad",
        metadata={"share": share, "reasons": dg.MetadataValue.json(result.skip_reasons)},
    )

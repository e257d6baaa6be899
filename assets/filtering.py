"""Scores of every pair, the selection over all groups, and the selected pairs."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def filter_scores(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define the scores of a filter."""
    return define(profile, asset, section="filtering", kinds={"pytorch", "parquet"})


def selection(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define the selection over all groups."""
    return define(profile, asset, section="filtering", kinds={"parquet"}, metadata=histogram)


def selected_shards(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define the selected pairs."""
    return define(profile, asset, section="filtering", kinds={"parquet"})


def histogram(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Show the histogram of all scores and the lowest score that passes the cut."""
    (summary,) = result.summaries.values()
    counts = summary.facts["histogram"]
    width = 2 / len(counts)
    rows = [f"| {-1 + width * number:.2f} | {count} |" for number, count in enumerate(counts) if count]
    table = "\n".join(["| score from | pairs |", "|---|---|", *rows])
    return {"lowest_kept_score": dg.MetadataValue.float(summary.facts["cut"]), "scores": dg.MetadataValue.md(table)}

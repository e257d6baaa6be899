"""Scores of every pair, the selection over all groups, and the selected pairs."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def filtering(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define the scores of each filter, the selection and the selected pairs."""
    return [
        define(
            profile,
            asset,
            section="filtering",
            kinds={"pytorch", "parquet"} if asset.stage == "filter_scores" else {"parquet"},
            metadata=histogram if asset.stage == "selection" else None,
        )
        for asset in graph.values()
        if asset.stage in {"filter_scores", "selection", "selected_shards"}
    ]


def histogram(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Show the histogram of all scores and the lowest score that passes the cut."""
    (summary,) = result.summaries.values()
    counts = summary.facts["histogram"]
    width = 2 / len(counts)
    rows = [f"| {-1 + width * number:.2f} | {count} |" for number, count in enumerate(counts) if count]
    table = "\n".join(["| score from | pairs |", "|---|---|", *rows])
    return {"lowest_kept_score": dg.MetadataValue.float(summary.facts["cut"]), "scores": dg.MetadataValue.md(table)}

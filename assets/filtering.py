"""Scores of every pair, the selection over all groups, and the selected pairs."""

from __future__ import annotations

from functools import partial

import dagster as dg

from assets.materialize import define
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def histogram(pipeline: Pipeline, result: MaterializeResult) -> dict[str, dg.MetadataValue]:
    """Show the histogram of all scores and the lowest score that passes the cut."""
    (summary,) = result.summaries.values()
    counts = summary.facts["histogram"]
    width = 2 / len(counts)
    rows = [f"| {-1 + width * number:.2f} | {count} |" for number, count in enumerate(counts) if count]
    table = "\n".join(["| score from | pairs |", "|---|---|", *rows])
    return {"lowest_kept_score": dg.MetadataValue.float(summary.facts["cut"]), "scores": dg.MetadataValue.md(table)}


filter_scores = partial(define, section="filtering", kinds={"pytorch", "parquet"})
selection = partial(define, section="filtering", kinds={"parquet"}, metadata=histogram)
selected_shards = partial(define, section="filtering", kinds={"parquet"})

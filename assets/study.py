"""Studies: students that differ in one setting, one partition for each row and seed."""

from __future__ import annotations

from functools import partial

import dagster as dg

from assets.materialize import define
from assets.metadata import training_metadata
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def study_metadata(pipeline: Pipeline, result: MaterializeResult) -> dict[str, object]:
    """Return the loss curve of the trial, and a table and plots of all trials so far."""
    from mobileclip2.report import plots
    from mobileclip2.report.pictures import inline_markdown
    from mobileclip2.report.study import figures, study_result, table

    found = study_result(pipeline, result.asset.name)
    heading, *lines = table(found)
    rule = ["---"] * len(heading)
    pictures = [
        inline_markdown(plots.png(figure), metric) for figure, metric in zip(figures(found), found.metrics, strict=True)
    ]
    return {
        **training_metadata(pipeline, result),
        "study": dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in [heading, rule, *lines])),
        "plot": dg.MetadataValue.md("\n\n".join(pictures)),
    }


study = partial(define, section="studies", kinds={"pytorch"}, metadata=study_metadata)

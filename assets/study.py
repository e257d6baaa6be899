"""Studies: students that differ in one thing, a partition for each row and seed."""

from __future__ import annotations

import dagster as dg

from assets.curves import training_metadata
from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def studies(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define an asset for each study."""
    return [
        define(profile, asset, section="studies", kinds={"pytorch"}, metadata=findings)
        for asset in graph.values()
        if asset.stage == "study"
    ]


def findings(pipeline: Pipeline, done: MaterializeResult) -> dict[str, object]:
    """Return the trial's own curve, and all that the study has found so far."""
    from mobileclip2.report import plots
    from mobileclip2.report.pictures import inline_markdown
    from mobileclip2.report.study import figures, found, table

    result = found(pipeline, done.asset.name)
    heading, *lines = table(result)
    rule = ["---"] * len(heading)
    pictures = [
        inline_markdown(plots.png(figure), metric)
        for figure, metric in zip(figures(result), result.metrics, strict=True)
    ]
    return {
        **training_metadata(pipeline, done),
        "study": dg.MetadataValue.md("\n".join(f"| {' | '.join(line)} |" for line in [heading, rule, *lines])),
        "plot": dg.MetadataValue.md("\n\n".join(pictures)),
    }

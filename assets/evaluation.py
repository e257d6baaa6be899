"""Zero-shot classification and retrieval of teachers and students."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.graph import Graph
from mobileclip2.pipeline import Done, Pipeline
from mobileclip2.profile import Profile


def evaluations(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    return [
        define(profile, asset, section="evaluation", kinds={"pytorch", "json"}, metadata=results)
        for asset in graph.values()
        if asset.stage == "evaluation"
    ]


def results(pipeline: Pipeline, done: Done) -> dict[str, object]:
    from mobileclip2.report.sheets import evaluation_results

    rows, picture = evaluation_results(pipeline, done.asset.name)
    schema = dg.TableSchema(columns=[dg.TableColumn("set"), dg.TableColumn("metric"), dg.TableColumn("value", "float")])
    records = [dg.TableRecord({"set": name, "metric": metric, "value": value}) for name, metric, value in rows]
    main = {name: value for name, metric, value in rows if metric == "main_metric"}
    return {
        **main,
        "metrics": dg.MetadataValue.table(records=records, schema=schema),
        "plot": dg.MetadataValue.md(picture),
    }

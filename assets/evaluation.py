"""Zero-shot classification and retrieval of teachers and students, a partition for each set."""

from __future__ import annotations

import dagster as dg

from assets.materialize import define
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Graph
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def evaluations(profile: Profile, graph: Graph) -> list[dg.AssetsDefinition]:
    """Define an asset for each evaluated model. Students other than the gate's baseline get a check."""
    judged = [student.name for student in profile.students if profile.gate.baseline not in {None, student.name}]
    return [
        define(
            profile,
            asset,
            section="evaluation",
            kinds={"pytorch", "json"},
            metadata=results,
            check=no_worse if asset.name in judged else None,
            check_name="no_worse_than_baseline",
        )
        for asset in graph.values()
        if asset.stage == "evaluation"
    ]


def results(pipeline: Pipeline, done: MaterializeResult) -> dict[str, object]:
    """Return the numbers of this set, and the main ones of all sets that are measured so far."""
    from mobileclip2.evaluation.results import MAIN_METRIC
    from mobileclip2.report.sheets import evaluation_results

    assert done.group is not None
    found, picture = evaluation_results(pipeline, done.asset.name, done.group)
    schema = dg.TableSchema(columns=[dg.TableColumn("metric"), dg.TableColumn("value", "float")])
    records = [dg.TableRecord({"metric": metric, "value": value}) for metric, value in found.items()]
    return {
        **({MAIN_METRIC: found[MAIN_METRIC]} if MAIN_METRIC in found else {}),
        "metrics": dg.MetadataValue.table(records=records, schema=schema),
        "plot": dg.MetadataValue.md(picture),
    }


def no_worse(pipeline: Pipeline, done: MaterializeResult) -> dg.AssetCheckResult:
    """Check the gate's verdict over all sets.

    A missing set is a warning, and so is a baseline that cannot be compared with.
    """
    from mobileclip2.errors import UserError
    from mobileclip2.evaluation.gate import compare
    from mobileclip2.report.comparison import as_markdown, published_like, verdict
    from mobileclip2.stages.stored_results import baseline_results, stored_results

    name, baseline = done.asset.name, pipeline.profile.gate.baseline
    assert baseline is not None
    try:
        found = stored_results(pipeline, name)
        comparison = compare(found, baseline_results(pipeline, baseline, name), pipeline.profile.gate)
    except UserError as error:
        return dg.AssetCheckResult(
            passed=False,
            severity=dg.AssetCheckSeverity.WARN,
            check_name="no_worse_than_baseline",
            description=str(error),
        )
    table = as_markdown(comparison, name, baseline, published_like(pipeline.profile, name))
    return dg.AssetCheckResult(
        passed=not comparison.failed,
        check_name="no_worse_than_baseline",
        description="\n".join(verdict(comparison, baseline)),
        metadata={"comparison": dg.MetadataValue.md(table)},
    )

"""Zero-shot classification and retrieval of teachers and students, one partition for each evaluation set."""

from __future__ import annotations

import logging
from typing import Any

import dagster as dg

from assets.checks import Check
from assets.materialize import define
from assets.metadata import link, table
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, Verdict

logger = logging.getLogger(__name__)


def evaluation(profile: Profile, asset: Asset) -> dg.AssetsDefinition:
    """Define the evaluation of a model. Each student except the gate's baseline gets a check."""
    checked = [student.name for student in profile.students if profile.gate.baseline not in {None, student.name}]
    checks = [Check(no_worse_than_baseline)] if asset.name in checked else []
    return define(profile, asset, section="evaluation", kinds={"pytorch", "json"}, metadata=results, checks=checks)


def results(pipeline: Pipeline, result: MaterializeResult) -> dict[str, object]:
    """Return the metrics of this set, a plot of all sets that are evaluated so far, and the report after the last set."""
    from mobileclip2.evaluation.results import MAIN_METRIC
    from mobileclip2.report.sheets import evaluation_results

    assert result.group is not None
    metrics, picture = evaluation_results(pipeline, result.asset.name, result.group)
    columns = (dg.TableColumn("metric"), dg.TableColumn("value", "float"))
    return {
        **({MAIN_METRIC: metrics[MAIN_METRIC]} if MAIN_METRIC in metrics else {}),
        "metrics": table(columns, metrics.items()),
        "plot": dg.MetadataValue.md(picture),
        **(report(pipeline) if pipeline.is_current(result.asset.key) else {}),
    }


def report(pipeline: Pipeline) -> dict[str, dg.MetadataValue[Any]]:
    """Write the report to the store, and return the link. Return nothing if an input of the report cannot be read."""
    from mobileclip2.errors import UserError
    from mobileclip2.report.gather import store_report

    try:
        return {"report": link(store_report(pipeline))}
    except UserError as error:  # the results are stored, so the evaluation has succeeded
        logger.warning("no report: %s", error)
        return {}


def no_worse_than_baseline(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Warn if the gate fails over all sets, if a set is missing, or if the baseline has no comparable results."""
    from mobileclip2.errors import UserError
    from mobileclip2.evaluation.gate import compare
    from mobileclip2.report.comparison import as_markdown, published_like, verdict
    from mobileclip2.stages.stored_results import baseline_results, stored_results

    name, baseline = result.asset.name, pipeline.profile.gate.baseline
    assert baseline is not None
    try:
        comparison = compare(
            stored_results(pipeline, name), baseline_results(pipeline, baseline, name), pipeline.profile.gate
        )
    except UserError as error:
        return Verdict(False, str(error), is_warning=True)
    compared = as_markdown(comparison, name, baseline, published_like(pipeline.profile, name))
    drops = {
        f"drop_{row.set}_{row.metric}": row.baseline - row.value for row in comparison.rows if row.baseline is not None
    }
    return Verdict(
        not comparison.failed,
        "\n".join(verdict(comparison, baseline)),
        {"failed_metrics": len(comparison.failed), **drops},
        {"comparison": compared},
    )

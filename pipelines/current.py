"""Whether each asset is current: the plan's answer, as a check that every asset shows.

Dagster's own "unsynced" label looks at direct parents only, ignores partitions in places, and knows nothing of an edited profile.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan, rows
from mobileclip2.errors import UserError
from pipelines.show import SHOWN_REASONS, groups_and_parts, why

CHECK = "current"
COLUMNS = dg.TableSchema(columns=[dg.TableColumn(name) for name in ("groups", "parts", "why")])


def current(loaded: Pipeline) -> dg.AssetChecksDefinition:
    """Define the check of all assets.

    It runs by itself, and after a materialization for the asset that was made.
    """
    specs = [
        dg.AssetCheckSpec(
            CHECK,
            asset=key.split("/"),
            description="Every part of every group is there, made from the present profile, code and inputs.",
        )
        for key in loaded.graph
    ]

    @dg.multi_asset_check(name=CHECK, specs=specs, can_subset=True)
    def check(
        context: dg.AssetCheckExecutionContext, pipeline: dg.ResourceParam[Pipeline]
    ) -> Iterator[dg.AssetCheckResult]:
        chosen = {check.asset_key.to_user_string() for check in context.selected_asset_check_keys}
        try:
            found = verdicts(pipeline)
        except UserError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        for key, verdict in found.items():
            if key in chosen:
                yield dg.AssetCheckResult(asset_key=key.split("/"), check_name=CHECK, **verdict)

    return check


def verdicts(pipeline: Pipeline) -> dict[str, dict[str, Any]]:
    """Return what the check says of each asset, as arguments of a result or an evaluation.

    Raises:
        UserError: an outside input is missing, or the store cannot be read.
    """
    missing: dict[str, list[dg.TableRecord]] = {}
    texts: dict[str, list[str]] = {}
    for row in rows(plan(pipeline)):
        groups, parts = groups_and_parts(row)
        missing.setdefault(row.asset, []).append(
            dg.TableRecord({"groups": groups, "parts": parts, "why": "; ".join(row.reasons)})
        )
        texts.setdefault(row.asset, []).append(f"{' '.join(filter(None, (groups, parts)))}: {why(row)}".lstrip(": "))
    return {
        key: {
            "passed": key not in missing,
            "severity": dg.AssetCheckSeverity.WARN,
            "description": f"to be computed: {_shortened(texts[key])}" if key in missing else "current",
            "metadata": {"missing": dg.MetadataValue.table(missing[key], COLUMNS)} if key in missing else {},
        }
        for key in pipeline.graph
    }


def _shortened(texts: list[str]) -> str:
    more = len(texts) - SHOWN_REASONS
    return " | ".join(texts[:SHOWN_REASONS]) + (f" | and {more} more" if more > 0 else "")


def changed_evaluations(pipeline: Pipeline, dagster: dg.DagsterInstance) -> list[dg.AssetCheckEvaluation]:
    """Return the evaluations of the check that differ from the last ones.

    One differs if the check would say something else now, or if the asset was made since.

    Only assets are checked of which it last said something else, or before they were last made.

    Raises:
        UserError: an outside input is missing, or the store cannot be read.
    """
    latest = _latest_materializations(pipeline, dagster)
    changed = []
    for key, verdict in verdicts(pipeline).items():
        # without the target the interface shows nothing: it goes by times, and those of checks are in whole seconds
        now = dg.AssetCheckEvaluation(
            dg.AssetKey(key.split("/")), CHECK, **verdict, target_materialization_data=latest.get(key)
        )
        last = dagster.get_latest_asset_check_evaluation_record(now.asset_check_key)
        if last is None or _said(last.evaluation) != _said(now):
            changed.append(now)
    return changed


def _latest_materializations(
    pipeline: Pipeline, dagster: dg.DagsterInstance
) -> dict[str, AssetCheckEvaluationTargetMaterializationData]:
    latest = {}
    for record in dagster.get_asset_records([dg.AssetKey(key.split("/")) for key in pipeline.graph]):
        made = record.asset_entry.last_materialization_record
        if made:
            latest[record.asset_entry.asset_key.to_user_string()] = AssetCheckEvaluationTargetMaterializationData(
                storage_id=made.storage_id, run_id=made.run_id, timestamp=made.timestamp
            )
    return latest


def _said(evaluation: dg.AssetCheckEvaluation | None) -> tuple[Any, ...]:
    if evaluation is None:
        return ()
    target = evaluation.target_materialization_data
    return evaluation.passed, evaluation.description, evaluation.metadata, target.storage_id if target else None


def report_current(pipeline: Pipeline, dagster: dg.DagsterInstance) -> None:
    """Write what has changed into the instance, without a run.

    Raises:
        UserError: an outside input is missing, or the store cannot be read.
    """
    for evaluation in changed_evaluations(pipeline, dagster):
        dagster.report_runless_asset_event(evaluation)

"""The asset check ``current``, which shows the plan's result on every asset.

Dagster's "unsynced" label considers only direct parents, ignores some partitions, and does not notice an edited profile.
"""

from collections.abc import Iterator
from typing import Any

import dagster as dg
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluationTargetMaterializationData

from mobileclip2.asset_key import AssetKey
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan, rows
from mobileclip2.errors import UserError
from pipelines.show import SHOWN_REASONS, groups_and_slices, why

CHECK = "current"
COLUMNS = dg.TableSchema(columns=[dg.TableColumn(name) for name in ("groups", "slices", "why")])


def current(loaded: Pipeline) -> dg.AssetChecksDefinition:
    """Define the check for all assets. The sensor evaluates it, and so does each materialization of an asset."""
    specs = [
        dg.AssetCheckSpec(
            CHECK,
            asset=asset.key.path,
            description="Every slice of every group is stored and was computed from the present profile, code and inputs.",
        )
        for asset in loaded.graph.values()
    ]

    @dg.multi_asset_check(name=CHECK, specs=specs, can_subset=True)
    def check(
        context: dg.AssetCheckExecutionContext, pipeline: dg.ResourceParam[Pipeline]
    ) -> Iterator[dg.AssetCheckResult]:
        selected = {check.asset_key.to_user_string() for check in context.selected_asset_check_keys}
        try:
            results = verdicts(pipeline)
        except UserError as error:
            raise dg.Failure(str(error), allow_retries=False) from None
        for key, verdict in results.items():
            if key in selected:
                yield dg.AssetCheckResult(asset_key=key.path, check_name=CHECK, **verdict)

    return check


def verdicts(pipeline: Pipeline) -> dict[AssetKey, dict[str, Any]]:
    """Return the check's result for each asset, as arguments of ``AssetCheckResult`` or ``AssetCheckEvaluation``.

    Raises:
        UserError: An external input is missing, or the store cannot be read.
    """
    missing: dict[AssetKey, list[dg.TableRecord]] = {}
    texts: dict[AssetKey, list[str]] = {}
    for row in rows(plan(pipeline)):
        groups, slices = groups_and_slices(row)
        missing.setdefault(row.asset, []).append(
            dg.TableRecord({"groups": groups, "slices": slices, "why": "; ".join(row.reasons)})
        )
        texts.setdefault(row.asset, []).append(f"{' '.join(filter(None, (groups, slices)))}: {why(row)}".lstrip(": "))
    return {
        key: {
            "passed": key not in missing,
            "severity": dg.AssetCheckSeverity.WARN,
            "description": f"to be computed: {_shortened(texts[key])}" if key in missing else "current",
            "metadata": {"missing": dg.MetadataValue.table(missing[key], COLUMNS)} if key in missing else {},
        }
        for key in (asset.key for asset in pipeline.graph.values())
    }


def _shortened(texts: list[str]) -> str:
    more = len(texts) - SHOWN_REASONS
    return " | ".join(texts[:SHOWN_REASONS]) + (f" | and {more} more" if more > 0 else "")


def changed_evaluations(pipeline: Pipeline, dagster: dg.DagsterInstance) -> list[dg.AssetCheckEvaluation]:
    """Return the evaluations that are out of date: the result is different, or the asset was materialized since.

    Raises:
        UserError: An external input is missing, or the store cannot be read.
    """
    latest = _latest_materializations(pipeline, dagster)
    changed = []
    for key, verdict in verdicts(pipeline).items():
        # the UI compares times, and a check's time has whole seconds: it shows no evaluation without a target
        now = dg.AssetCheckEvaluation(
            dg.AssetKey(key.path), CHECK, **verdict, target_materialization_data=latest.get(key)
        )
        last = dagster.get_latest_asset_check_evaluation_record(now.asset_check_key)
        if last is None or _identity(last.evaluation) != _identity(now):
            changed.append(now)
    return changed


def _latest_materializations(
    pipeline: Pipeline, dagster: dg.DagsterInstance
) -> dict[str, AssetCheckEvaluationTargetMaterializationData]:
    latest = {}
    for record in dagster.get_asset_records([dg.AssetKey(asset.key.path) for asset in pipeline.graph.values()]):
        last = record.asset_entry.last_materialization_record
        if last:
            latest[record.asset_entry.asset_key.to_user_string()] = AssetCheckEvaluationTargetMaterializationData(
                storage_id=last.storage_id, run_id=last.run_id, timestamp=last.timestamp
            )
    return latest


def _identity(evaluation: dg.AssetCheckEvaluation | None) -> tuple[Any, ...]:
    if evaluation is None:
        return ()
    target = evaluation.target_materialization_data
    return evaluation.passed, evaluation.description, evaluation.metadata, target.storage_id if target else None


def report_current(pipeline: Pipeline, dagster: dg.DagsterInstance) -> None:
    """Report the changed evaluations to the instance, without a run.

    Raises:
        UserError: An external input is missing, or the store cannot be read.
    """
    for evaluation in changed_evaluations(pipeline, dagster):
        dagster.report_runless_asset_event(evaluation)

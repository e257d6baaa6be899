from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from assets.checks import Check, blocking_failures
from assets.materialize import define
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, Verdict
from mobileclip2.progress import silent


def samples_are_fine(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Fail always.

    This line is not shown.
    """
    return Verdict(False, "no sample is fine", {"share": 0.25}, {"rows": "| a |\n|---|"})


def cannot_compare(pipeline: Pipeline, result: MaterializeResult) -> Verdict:
    """Fail because nothing could be compared."""
    return Verdict(False, "there is nothing to compare", is_warning=True)


def evaluated(check: Check) -> dg.AssetCheckResult:
    nothing: Any = None
    return check.evaluate(nothing, nothing)


def test_a_check_has_the_name_and_the_first_line_of_its_function() -> None:
    spec = Check(samples_are_fine, blocking=True).spec(dg.AssetKey("a"))
    assert (spec.name, spec.description, spec.blocking) == ("samples_are_fine", "Fail always.", True)


def test_numbers_are_metadata_that_dagster_plots() -> None:
    metadata = evaluated(Check(samples_are_fine)).metadata
    assert metadata["share"] == dg.MetadataValue.float(0.25) and metadata["rows"] == dg.MetadataValue.md("| a |\n|---|")


@pytest.mark.parametrize(
    ("check", "severity", "blocks"),
    [
        (Check(samples_are_fine), "ERROR", False),
        (Check(samples_are_fine, warns=True), "WARN", False),
        (Check(samples_are_fine, blocking=True), "ERROR", True),
        (Check(cannot_compare, blocking=True), "WARN", False),
    ],
)
def test_only_errors_of_blocking_checks_fail_the_step(check: Check, severity: str, blocks: bool) -> None:
    result = evaluated(check)
    assert result.severity.value == severity
    assert bool(blocking_failures([result], [check])) is blocks


def test_a_blocking_check_fails_the_run_with_its_description_after_the_materialization(
    tiny: Path, instance: dg.DagsterInstance
) -> None:
    pipeline = Pipeline(load(tiny))
    checks = [Check(samples_are_fine, blocking=True)]
    asset = define(pipeline.profile, pipeline.graph["raw_shards"], section="raw", kinds=set(), checks=checks)
    resources = {
        "pipeline": dg.ResourceDefinition.hardcoded_resource(pipeline),
        "on_step": dg.ResourceDefinition.hardcoded_resource(silent),
    }
    with pytest.raises(dg.Failure) as failure:
        dg.materialize([asset], resources=resources, instance=instance, partition_key="g00")
    assert failure.value.description == "the check 'samples_are_fine' failed: no sample is fine"
    assert not failure.value.allow_retries
    assert instance.get_latest_materialization_event(dg.AssetKey("raw_shards"))
    key = dg.AssetCheckKey(dg.AssetKey("raw_shards"), "samples_are_fine")
    record = instance.get_latest_asset_check_evaluation_record(key)
    assert record is not None and record.evaluation is not None and not record.evaluation.passed

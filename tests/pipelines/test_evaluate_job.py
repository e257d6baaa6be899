from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from mobileclip2.config.profile import load
from pipelines import refresh
from pipelines.definitions import definitions_of
from pipelines.remote import BACKFILL_ENTRY, EVALUATE_OP, FAILED_ENTRY, TABLE_ENTRY


def evaluate(profile: Path, instance: dg.DagsterInstance, **config: str) -> dg.ExecuteInProcessResult:
    job = definitions_of(load(profile)).resolve_job_def("evaluate")
    run_config = {"ops": {EVALUATE_OP: {"config": config}}}
    return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)


@pytest.mark.parametrize("student", ["pupil", "student/pupil"])
def test_the_table_and_the_verdict_are_metadata_of_the_run(
    finished: Path, instance: dg.DagsterInstance, student: str
) -> None:
    result = evaluate(finished, instance, student=student, baseline="wide")
    assert result.success
    (event,) = [event for event in result.all_events if event.is_successful_output]
    metadata = event.step_output_data.metadata
    assert metadata[TABLE_ENTRY].value.startswith("### pupil against wide\n")
    assert isinstance(metadata[FAILED_ENTRY].value, bool)


def test_an_unknown_name_fails_the_run_with_its_message(finished: Path, instance: dg.DagsterInstance) -> None:
    result = evaluate(finished, instance, student="pupl")
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None and failure.description == (
        "--student pupl: no such model; did you mean 'pupil'?; correct the name"
    )


def test_a_missing_evaluation_is_submitted_with_what_it_needs(
    finished: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(finished.parent / "store" / "student")
    submitted: list[tuple[str, str | None]] = []

    def submit(server: object, partitions: list[tuple[str, str | None]], *_: object) -> str:
        submitted.extend(partitions)
        return "abc"

    monkeypatch.setattr(refresh, "submit", submit)
    result = evaluate(finished, instance, student="pupil", baseline="wide")
    (event,) = [event for event in result.all_events if event.is_successful_output]
    metadata = event.step_output_data.metadata
    assert metadata[BACKFILL_ENTRY].value == "abc" and TABLE_ENTRY not in metadata
    assert submitted == [("student/pupil", None), ("evaluation/pupil", "shapes")]

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from mobileclip2.config.profile import load
from pipelines import refresh
from pipelines.definitions import definitions_of
from pipelines.evaluate_job import config_schema
from pipelines.profiles import PROFILES
from pipelines.remote import BACKFILL_ENTRY, EVALUATE_OP, FAILED_ENTRY, TABLE_ENTRY


def evaluate(profile: Path, instance: dg.DagsterInstance, **config: str) -> dg.ExecuteInProcessResult:
    job = definitions_of(load(profile)).resolve_job_def("evaluate")
    run_config = {"ops": {EVALUATE_OP: {"config": config}}}
    return job.execute_in_process(instance=instance, run_config=run_config, raise_on_error=False)


@pytest.mark.parametrize("config", [{"student": "pupil"}, {}])
def test_the_table_and_the_verdict_are_metadata_of_the_run(
    finished: Path, instance: dg.DagsterInstance, config: dict[str, str]
) -> None:
    result = evaluate(finished, instance, **config, baseline="wide")
    assert result.success
    (event,) = [event for event in result.all_events if event.is_successful_output]
    metadata = event.step_output_data.metadata
    assert metadata[TABLE_ENTRY].value.startswith("### pupil against wide\n")
    assert isinstance(metadata[FAILED_ENTRY].value, bool)


def test_an_unknown_name_is_refused_before_the_run(finished: Path, instance: dg.DagsterInstance) -> None:
    with pytest.raises(dg.DagsterInvalidConfigError, match="pupl"):
        evaluate(finished, instance, student="pupl")


def test_an_unknown_baseline_fails_the_run_with_its_message(finished: Path, instance: dg.DagsterInstance) -> None:
    result = evaluate(finished, instance, baseline="nowhere")
    (event,) = [event for event in result.all_events if event.is_step_failure]
    failure = event.step_failure_data.user_failure_data
    assert failure is not None and "baseline 'nowhere'" in str(failure.description)


def test_a_missing_evaluation_is_submitted_with_its_upstream_assets(
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


@pytest.mark.parametrize(
    ("baseline", "default"), [(None, "reinforced"), ("plain", "reinforced"), ("reinforced", "plain")]
)
def test_the_launch_page_offers_the_models_and_a_default(baseline: str | None, default: str) -> None:
    profile = load(PROFILES / "demo.yaml")
    gate = profile.gate.model_copy(update={"baseline": baseline})
    schema = config_schema(profile.model_copy(update={"gate": gate}))
    choices = schema["student"].config_type.config_values
    assert choices == ["reinforced", "plain", "lite0", "lite2"]
    assert schema["student"].default_value == default and not schema["baseline"].is_required


def test_a_profile_without_evaluation_sets_has_no_evaluate_job() -> None:
    profile = load(PROFILES / "tiny.yaml").model_copy(update={"evaluation": ()})
    assert not definitions_of(profile).get_repository_def().has_job("evaluate")

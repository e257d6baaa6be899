import shutil

import dagster as dg
import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.current import report_current
from pipelines.definitions import definitions_of
from tests.pipelines.small import edited


def check_all(pipeline, instance):
    result = definitions_of(pipeline.profile).resolve_job_def("check_current").execute_in_process(instance=instance)
    return {each.asset_key.to_user_string(): each for each in result.get_asset_check_evaluations()}


def test_everything_is_current(finished, instance):
    pipeline = Pipeline(load(finished))
    found = check_all(pipeline, instance)
    assert set(found) == set(pipeline.graph)
    assert all(each.passed and each.description == "current" for each in found.values())


def test_what_is_not_current_warns_with_the_reason_all_the_way_down(finished, instance):
    shards = finished.parent / "shards"
    shutil.copy(shards / "00003.tar", shards / "00001.tar")
    pipeline = Pipeline(load(finished))
    found = check_all(pipeline, instance)
    stale = {key for key, each in found.items() if not each.passed}
    assert stale == set(pipeline.graph) - {"caption_corpus/clean", "teacher/wide", "evaluation/wide"}
    assert all(found[key].severity == dg.AssetCheckSeverity.WARN and not found[key].blocking for key in stale)
    raw, student = found["raw_shards"], found["student/pupil"]
    assert raw.description.startswith("to be computed: g01: shards ")
    (row,) = raw.metadata["missing"].records
    assert row.data["groups"] == "g01"
    assert student.description == "to be computed: upstream reinforced_dataset"


def test_an_edited_field_is_the_reason(finished, instance):
    found = check_all(edited(finished, lambda values: values["teachers"][0].update(logit_scale=51)), instance)
    assert found["student/pupil"].description == "to be computed: logit_scales [50] -> [51]"
    assert found["reinforced_dataset"].passed


def test_a_materialization_says_of_its_asset_whether_it_is_current(smallest, instance):
    pipeline = Pipeline(load(smallest))
    job = definitions_of(pipeline.profile).get_repository_def().get_implicit_global_asset_job_def()
    said = []
    for group in pipeline.profile.group_names:
        result = job.execute_in_process(
            instance=instance, asset_selection=[dg.AssetKey("raw_shards")], partition_key=group
        )
        (evaluation,) = [each for each in result.get_asset_check_evaluations() if each.check_name == "current"]
        said.append((evaluation.passed, evaluation.description))
    assert said == [(False, "to be computed: g01: new"), (True, "current")]


def test_a_missing_input_is_said_in_its_own_words(smallest, instance):
    shutil.rmtree(smallest.parent / "corpus")
    job = definitions_of(load(smallest)).resolve_job_def("check_current")
    result = job.execute_in_process(instance=instance, raise_on_error=False)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "no such folder, or it is empty" in failure.step_failure_data.user_failure_data.description


def test_only_what_has_changed_is_written(smallest, instance):
    def events():
        return instance.event_log_storage.get_asset_check_execution_history(key, limit=10)

    key = dg.AssetCheckKey(dg.AssetKey("raw_shards"), "current")
    pipeline = Pipeline(load(smallest))
    for _ in range(3):
        report_current(pipeline, instance)
    assert [record.evaluation.passed for record in events()] == [False]
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
    report_current(pipeline, instance)
    assert [record.evaluation.passed for record in events()] == [True, False]


@pytest.mark.parametrize("edit", [None, lambda values: values["views"].update(count=3)], ids=["as loaded", "edited"])
def test_the_sensor_that_shows_what_is_current_reads_the_profile_anew(smallest, instance, edit):
    repository = definitions_of(load(smallest))
    pipeline = Pipeline(load(smallest))
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)
    if edit:
        edited(smallest, edit)
    sensor = repository.resolve_sensor_def("show_what_is_current")
    data = sensor.evaluate_tick(dg.build_sensor_context(instance, definitions=repository))
    stale = {each.asset_key.to_user_string(): each.description for each in data.asset_events if not each.passed}
    assert stale == ({"augmentations": "to be computed: g00..g01 (2) view-2: new"} if edit else {})
    assert not data.run_requests

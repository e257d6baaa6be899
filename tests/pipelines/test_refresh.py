import shutil

import dagster as dg
import pytest

from assets.keys import dagster_key, library_key
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from pipelines.definitions import definitions_of
from pipelines.observe import report
from pipelines.refresh import REFRESH_TAG
from tests.pipelines.small import edited


def refresh(pipeline, instance, *assets):
    job = definitions_of(pipeline.profile).resolve_job_def("refresh")
    config = {"ops": {"materialize_missing": {"config": {"assets": list(assets)}}}} if assets else None
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def computed(result, instance):
    """(asset, group) of the runs that a refresh made, in order."""
    runs = instance.get_run_records(dg.RunsFilter(tags={REFRESH_TAG: result.run_id}), ascending=True)
    assert all(record.dagster_run.is_success for record in runs)
    selected = [(record.dagster_run.asset_selection, record.dagster_run.tags) for record in runs]
    return [(library_key(key), tags.get("dagster/partition")) for (key,), tags in selected]


@pytest.mark.slow
def test_refresh_computes_the_plan_and_then_there_is_none(small, instance):
    pipeline = Pipeline(load(small))
    planned = plan(pipeline)
    result = refresh(pipeline, instance)
    assert result.success
    assert computed(result, instance) == planned.pairs
    assert plan(Pipeline(load(small))).items == ()
    pipeline.forget()
    for asset in pipeline.graph.values():
        for group in pipeline.groups(asset):
            event = instance.fetch_materializations(
                dg.AssetRecordsFilter(dagster_key(asset.key), asset_partitions=[group] if group else None),
                limit=1,
            ).records[0]
            head = pipeline.materialize(asset.key, group)
            tags = event.asset_materialization.tags
            assert tags["dagster/data_version"] == head.data_version
            inputs = {name for name in tags if name.startswith("dagster/input_data_version/")}
            assert {name for name in inputs if not name.startswith("dagster/input_data_version/inputs/")} == {
                f"dagster/input_data_version/{upstream}" for upstream in asset.upstream
            }
    assert report(pipeline, instance) == 0, "the runs have reported everything"
    runs = len(instance.get_runs())
    assert refresh(pipeline, instance).success
    assert len(instance.get_runs()) == runs + 1, "the second refresh made runs beside its own"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            lambda values: values["teachers"][0].update(logit_scale=51),
            [("student/pupil", None), ("evaluation/pupil", "shapes")],
        ),
        (
            lambda values: values["evaluation"].append({"name": "again", "url": "evaluation/shapes"}),
            [("evaluation/pupil", "again"), ("evaluation/wide", "again")],
        ),
    ],
    ids=["logit scale", "evaluation set"],
)
def test_after_an_edit_refresh_computes_what_the_edit_touches(finished, instance, change, expected):
    pipeline = edited(finished, change)
    assert plan(pipeline).pairs == expected
    result = refresh(pipeline, instance)
    assert computed(result, instance) == expected
    assert plan(Pipeline(load(finished))).items == ()


def test_the_plan_is_shown_before_the_work(smallest, instance):
    result = refresh(Pipeline(load(smallest)), instance)
    events = [event for event in result.all_events if event.is_successful_output]
    assert [event.event_specific_data.step_output_handle.output_name for event in events] == ["plan", "done"]
    shown = events[0].event_specific_data.metadata
    assert shown["pairs"].value == 5
    assert [row.data["asset"] for row in shown["plan"].records] == [
        "raw_shards",
        "augmentations",
        "caption_corpus/clean",
    ]
    assert shown["plan"].records[1].data["why"] == "new; upstream raw_shards"
    messages = [entry.user_message for entry in instance.all_logs(result.run_id)]
    assert "[1/5] raw_shards [g00]" in messages


def test_only_some_assets_and_what_they_need(smallest, instance):
    result = refresh(Pipeline(load(smallest)), instance, "augmentations")
    assert computed(result, instance) == [
        ("raw_shards", "g00"),
        ("raw_shards", "g01"),
        ("augmentations", "g00"),
        ("augmentations", "g01"),
    ]
    key = dg.AssetKey("caption_corpus.clean")
    assert instance.get_latest_materialization_event(key) is None


def test_an_asset_that_is_not_there_is_named(smallest, instance):
    result = refresh(Pipeline(load(smallest)), instance, "student/nobody")
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert failure.step_failure_data.user_failure_data.description.startswith("there is no asset 'student/nobody'")


def test_a_stage_that_fails_fails_the_job_with_its_own_words_and_the_rest_is_kept(smallest, instance):
    shard = smallest.parent / "shards" / "00001.tar"
    whole = shard.read_bytes()
    shard.write_bytes(whole[: len(whole) // 2])
    pipeline = Pipeline(load(smallest))
    result = refresh(pipeline, instance)
    assert not result.success
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    said = failure.step_failure_data.user_failure_data.description
    assert said.startswith("raw_shards [g01]:") and "00001.tar: cut off or damaged at byte" in said
    assert pipeline.missing(pipeline.graph["raw_shards"], "g00") == []
    shard.write_bytes(whole)
    assert refresh(pipeline, instance).success
    assert plan(pipeline).items == ()


def test_a_source_that_is_gone_fails_the_job_with_the_stages_words(smallest, instance):
    shutil.rmtree(smallest.parent / "corpus")
    result = refresh(Pipeline(load(smallest)), instance)
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    assert "no such folder, or it is empty" in failure.step_failure_data.user_failure_data.description

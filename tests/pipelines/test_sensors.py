import subprocess
import sys
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from assets.keys import library_key
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import ShardError
from mobileclip2.stages import augmentations, raw_shards
from mobileclip2.store.lease import acquire
from pipelines.definitions import definitions_of
from pipelines.sensors import ATTEMPTS, FINGERPRINT_TAG
from tests.pipelines.small import Daemon, edited

ROOT = Path(__file__).parents[2]


@pytest.fixture
def broken(monkeypatch):
    """Makes the stage of views fail for one group, as often as is asked for; counts the tries."""
    run = augmentations.run

    def arrange(times, group="g01"):
        tries = []

        def sometimes(work):
            if work.group == group:
                tries.append(work.tasks[0].fingerprint)
                if len(tries) <= times:
                    raise ShardError("the views are broken; mend them")
            run(work)

        monkeypatch.setattr(augmentations, "run", sometimes)
        return tries

    return arrange


def outputs(profile):
    """Data version of every part that is there."""
    pipeline = Pipeline(load(profile))
    return {
        (asset.key, part.name, group): pipeline.summary(asset, part, group).data_version
        for asset in pipeline.graph.values()
        for part in asset.slices.values()
        for group in pipeline.groups(asset)
    }


def test_it_is_stopped_until_somebody_starts_it(smallest):
    sensors = {sensor.name: sensor for sensor in definitions_of(load(smallest)).sensors}
    assert sensors["refresh_when_changed"].default_status == dg.DefaultSensorStatus.STOPPED
    assert set(sensors) == {"refresh_when_changed", "observe_changes"}


@pytest.mark.slow
def test_it_reaches_the_state_that_a_run_reaches_and_then_is_quiet(finished, instance):
    expected = outputs(finished)
    (finished.parent / "store").rename(finished.parent / "before")
    daemon = Daemon(finished, instance)
    planned = plan(Pipeline(load(finished))).pairs
    assert daemon.until_quiet() == "everything is current"
    assert Counter(daemon.launched) == Counter(planned)
    assert outputs(finished) == expected
    # and after an edit, with the same definitions loaded
    edited(finished, lambda values: values["teachers"][0].update(logit_scale=51))
    daemon.launched.clear()
    assert daemon.until_quiet() == "everything is current"
    assert daemon.launched == [("student/pupil", None), ("evaluation/pupil", "shapes")]


def test_only_what_has_its_inputs_is_asked_for(smallest, instance):
    data = Daemon(smallest, instance).tick()
    wanted = [(library_key(request.asset_selection[0]), request.partition_key) for request in data.run_requests]
    assert wanted == [("raw_shards", "g00"), ("raw_shards", "g01"), ("caption_corpus/clean", None)]


def test_what_fails_twice_and_then_works_is_tried_again(smallest, instance, broken):
    tries = broken(times=2)
    daemon = Daemon(smallest, instance)
    assert daemon.until_quiet() == "everything is current"
    assert len(tries) == 3
    records = instance.get_run_records(dg.RunsFilter(tags={"dagster/partition": "g01"}), ascending=True)
    tried = [
        run for run in (record.dagster_run for record in records) if dg.AssetKey("augmentations") in run.asset_selection
    ]
    assert [run.tags["mobileclip2/attempt"] for run in tried] == ["1", "2", "3"]
    assert len({run.tags[FINGERPRINT_TAG] for run in tried}) == 1


def test_what_always_fails_is_tried_so_often_and_then_named(smallest, instance, broken):
    tries = broken(times=1000)
    daemon = Daemon(smallest, instance)
    for _ in range(3):
        said = daemon.until_quiet()
        assert said.startswith(f"given up after {ATTEMPTS} attempts: augmentations [g01]; see why the last run failed")
    assert len(tries) == ATTEMPTS
    left = [(asset.key, group) for asset, group in Pipeline(load(smallest)).stale()]
    assert left == [("augmentations", "g01")]


def test_a_change_while_a_run_fails_is_not_lost(smallest, instance, broken):
    tries = broken(times=ATTEMPTS)
    daemon = Daemon(smallest, instance)
    assert "given up" in daemon.until_quiet()
    before = set(tries)
    edited(smallest, lambda values: values["views"].update(seed=7))
    assert daemon.until_quiet() == "everything is current"
    assert len(tries) == ATTEMPTS + 1 and tries[-1] not in before
    assert plan(Pipeline(load(smallest))).items == ()


def test_an_edit_that_comes_during_a_run_is_seen_after_it(smallest, instance, monkeypatch):
    run, edits = raw_shards.run, []

    def edit_meanwhile(work):
        run(work)
        if not edits:
            edits.append(edited(smallest, lambda values: values["filters"].update(min_side=16)))

    edited(smallest, lambda values: values.update(filters={}))
    monkeypatch.setattr(raw_shards, "run", edit_meanwhile)
    daemon = Daemon(smallest, instance)
    assert daemon.until_quiet() == "everything is current"
    assert edits and plan(Pipeline(load(smallest))).items == ()


def test_bytes_that_are_lost_again_get_new_attempts(smallest, instance):
    daemon = Daemon(smallest, instance)
    for _ in range(ATTEMPTS + 1):
        assert daemon.until_quiet() == "everything is current"
        for manifest in (smallest.parent / "store" / "caption_corpus").rglob("manifest.json"):
            manifest.unlink()
    assert daemon.launched.count(("caption_corpus/clean", None)) == ATTEMPTS + 1


def test_what_is_being_computed_is_not_asked_for(smallest, instance):
    daemon = Daemon(smallest, instance)
    pipeline = Pipeline(load(smallest))
    asset = pipeline.graph["raw_shards"]
    work = pipeline.task_for(asset, asset.slices["whole"], "g01")
    with acquire(pipeline.storage, [work.output.prefix]):
        wanted = daemon.tick().run_requests
        assert ("raw_shards", "g01") not in [(each.asset_selection[0].path[0], each.partition_key) for each in wanted]
        for request in wanted:
            daemon.launch(request)
        daemon.launch(daemon.tick().run_requests[0])
        assert daemon.tick().skip_message == "already queued or running: raw_shards [g01]"
    assert daemon.until_quiet() == "everything is current"


def test_what_is_queued_or_started_is_not_asked_for(smallest, instance):
    location = RegisteredCodeLocationOrigin("mobileclip2")
    origin = RemoteJobOrigin(RemoteRepositoryOrigin(location, "__repository__"), "__ASSET_JOB")
    run = dg.DagsterRun(
        job_name="__ASSET_JOB",
        status=dg.DagsterRunStatus.STARTED,
        asset_selection=frozenset({dg.AssetKey("raw_shards")}),
        tags={"dagster/partition": "g00"},
        remote_job_origin=origin,
    )
    instance.add_run(run)
    daemon = Daemon(smallest, instance)
    wanted = [(library_key(each.asset_selection[0]), each.partition_key) for each in daemon.tick().run_requests]
    assert wanted == [("raw_shards", "g01"), ("caption_corpus/clean", None)]
    instance.report_run_failed(run)
    assert daemon.until_quiet() == "everything is current"


def test_it_waits_while_a_refresh_runs(smallest, instance):
    run = dg.DagsterRun(job_name="refresh", status=dg.DagsterRunStatus.STARTED)
    instance.add_run(run)
    daemon = Daemon(smallest, instance)
    assert daemon.tick().skip_message == f"waiting for the refresh {run.run_id[:8]} to end"
    instance.report_run_failed(run)
    assert daemon.until_quiet() == "everything is current"


def test_another_graph_asks_for_a_reload(smallest, instance):
    daemon = Daemon(smallest, instance)
    edited(smallest, lambda values: values["caption_corpora"].append({"name": "more", "url": "corpus"}))
    assert "(with caption_corpus/more); reload the definitions" in daemon.tick().skip_message
    edited(smallest, lambda values: values.update(caption_corpora=[], groups=3))
    assert "(without caption_corpus/clean, 3 groups instead of 2)" in daemon.tick().skip_message


def test_a_tick_loads_no_torch(smallest):
    code = """
import sys, dagster as dg
from pathlib import Path
from tests.pipelines.small import Daemon
with dg.DagsterInstance.ephemeral() as instance:
    assert Daemon(Path(sys.argv[1]), instance).tick().run_requests
sys.exit('torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, smallest], cwd=ROOT, check=False)
    assert done.returncode == 0

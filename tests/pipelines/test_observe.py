"""Compare Dagster's own staleness with the plan."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from mobileclip2.asset_key import Partition
from mobileclip2.config.profile import load
from mobileclip2.engine import graph
from mobileclip2.engine.pipeline import Pipeline
from pipelines.asset_run import materialize
from pipelines.definitions import definitions_of
from pipelines.observe import report
from tests.pipelines.small import edited
from tests.pipelines.stale import planned, unsynced

CHANGES = {
    "a teacher": lambda values: values["teachers"].append({**values["teachers"][0], "name": "second"}),
    "a view": lambda values: values["views"].update(count=values["views"]["count"] + 1),
    "a logit scale": lambda values: values["teachers"][0].update(logit_scale=51),
    "an evaluation set": lambda values: values["evaluation"].append({**values["evaluation"][0], "name": "more"}),
    "the filters": lambda values: values.update(filters={"min_side": 16}),
    "the log interval": lambda values: values["students"][0]["train"].update(log_every=7),
}


@pytest.fixture
def instance(tmp_path: Path) -> Iterator[dg.DagsterInstance]:
    """Return an instance on disk, which GraphQL needs."""
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


@pytest.mark.parametrize("change", CHANGES)
def test_a_profile_change_makes_the_planned_assets_unsynced(
    finished: Path, instance: dg.DagsterInstance, change: str
) -> None:
    assert report(Pipeline(load(finished)), instance)
    assert unsynced(finished, instance) == set()
    pipeline = edited(finished, CHANGES[change])
    report(pipeline, instance)
    assert unsynced(finished, instance) == planned(pipeline)


def test_reverting_a_change_restores_sync(finished: Path, instance: dg.DagsterInstance) -> None:
    text = finished.read_text()
    report(Pipeline(load(finished)), instance)
    pipeline = edited(finished, lambda values: values["teachers"][0].update(logit_scale=51))
    pipeline.materialize("student/pupil")
    report(pipeline, instance)
    assert unsynced(finished, instance) == planned(pipeline) == {("evaluation/pupil", "shapes")}
    finished.write_text(text)
    report(Pipeline(load(finished)), instance)
    assert unsynced(finished, instance) == set()
    assert report(Pipeline(load(finished)), instance) == 0


def test_new_code_that_writes_the_same_bytes_leaves_the_rest_in_sync(
    finished: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    report(Pipeline(load(finished)), instance)
    monkeypatch.setitem(graph.CODE_VERSIONS, "augmentations", "another")
    pipeline = Pipeline(load(finished))
    report(pipeline, instance)
    assert unsynced(finished, instance) == planned(pipeline)
    for group in pipeline.profile.group_names:
        pipeline.materialize("augmentations", group)
    report(pipeline, instance)
    assert unsynced(finished, instance) == planned(pipeline) == set()


def test_a_changed_shard_makes_its_readers_unsynced_before_downstream_assets(
    finished: Path, instance: dg.DagsterInstance
) -> None:
    """Dagster compares direct parents. Assets further downstream become unsynced after their parent is recomputed."""
    report(Pipeline(load(finished)), instance)
    shards = finished.parent / "shards"
    shutil.copy(shards / "00003.tar", shards / "00001.tar")
    pipeline = Pipeline(load(finished))
    report(pipeline, instance)
    assert unsynced(finished, instance) == {("raw_shards", "g01")} < planned(pipeline)
    pipeline.materialize("raw_shards", "g01")
    report(pipeline, instance)
    assert ("augmentations", "g01") in unsynced(finished, instance) < planned(pipeline)


def test_more_groups_need_no_more_queries(
    smallest: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def queries_of_an_idle_report() -> int:
        for asset, group in Pipeline(load(smallest)).stale():
            Pipeline(load(smallest)).materialize(asset.key, group)
        assert report(Pipeline(load(smallest)), instance)
        with monkeypatch.context() as patch:
            queries = []
            for name in ("fetch_materializations", "fetch_observations", "get_latest_storage_id_by_partition"):
                ask = getattr(instance, name)
                patch.setattr(
                    instance, name, lambda *args, ask=ask, **named: (queries.append(args), ask(*args, **named))[1]
                )
            assert report(Pipeline(load(smallest)), instance) == 0
        return len(queries)

    with_two_groups = queries_of_an_idle_report()
    edited(smallest, lambda values: values.update(groups=4))
    assert queries_of_an_idle_report() == with_two_groups > 0


def test_a_run_leaves_its_outputs_in_sync(smallest: Path, instance: dg.DagsterInstance) -> None:
    """A run observes its inputs before it records them."""
    pipeline = Pipeline(load(smallest))
    repository = definitions_of(pipeline.profile).get_repository_def()
    for asset, group in list(pipeline.stale()):
        materialize(pipeline.profile, repository, instance, Partition(asset.key, group))
    assert unsynced(smallest, instance) == set()
    assert report(Pipeline(load(smallest)), instance) == 0


def test_a_deleted_input_is_observed_as_missing(smallest: Path, instance: dg.DagsterInstance) -> None:
    report(Pipeline(load(smallest)), instance)
    shutil.rmtree(smallest.parent / "corpus")
    assert report(Pipeline(load(smallest)), instance) == 1
    key = dg.AssetKey(["inputs", "clean_caption_corpus_files"])
    record = instance.fetch_observations(key, limit=1).records[0].event_log_entry.asset_observation
    assert record is not None and record.tags["dagster/data_version"] == "missing"


def test_inputs_are_observed_from_the_ui(smallest: Path, instance: dg.DagsterInstance) -> None:
    job = definitions_of(load(smallest)).get_repository_def().get_implicit_global_asset_job_def()
    keys = [dg.AssetKey(["inputs", "source_shards"]), dg.AssetKey(["inputs", "clean_caption_corpus_files"])]
    assert job.execute_in_process(instance=instance, asset_selection=keys).success
    assert report(Pipeline(load(smallest)), instance) == 0

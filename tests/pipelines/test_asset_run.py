"""One run of Dagster for an asset and group."""

import shutil
from pathlib import Path

import dagster as dg
import pytest

from mobileclip2.asset_key import AssetKey, Partition
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from pipelines.asset_run import materialize
from pipelines.definitions import definitions_of


@pytest.fixture
def pipeline(tiny) -> Pipeline:
    return Pipeline(load(tiny))


def test_a_run_records_its_asset_and_group(pipeline, instance):
    asset = pipeline.graph["raw_shards"]
    repository = definitions_of(pipeline.profile).get_repository_def()
    materialize(pipeline.profile, repository, instance, Partition(asset.key, "g00"))
    (run,) = instance.get_runs()
    assert run.asset_selection == {dg.AssetKey("raw_shards")}
    assert run.tags["dagster/partition"] == "g00"
    event = instance.get_latest_materialization_event(dg.AssetKey("raw_shards"))
    (read,) = pipeline.read("raw_shards", "g00")
    assert event.asset_materialization.tags["dagster/data_version"] == read.manifest.data_version


def test_a_user_error_is_reported_without_a_traceback(pipeline, instance):
    corpus = pipeline.profile.locate("corpus")
    shutil.rmtree(corpus)
    repository = definitions_of(pipeline.profile).get_repository_def()
    with pytest.raises(UserError) as raised:
        materialize(pipeline.profile, repository, instance, Partition(AssetKey("caption_corpus/clean"), None))
    assert str(raised.value).startswith(f"caption_corpus/clean: {corpus}: no such folder")
    assert "Traceback" not in str(raised.value) and "Stack Trace" not in str(raised.value)


def test_an_internal_error_keeps_its_traceback(pipeline, instance, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a fault")

    monkeypatch.setattr(Pipeline, "materialize", broken)
    repository = definitions_of(pipeline.profile).get_repository_def()
    with pytest.raises(UserError, match=r"caption_corpus/clean: ZeroDivisionError: a fault(.|\n)*in broken"):
        materialize(pipeline.profile, repository, instance, Partition(AssetKey("caption_corpus/clean"), None))


def test_each_run_has_its_own_pipeline(pipeline, instance):
    """A run reads the state of the store at its start, and does not change the pipeline of its caller."""
    asset = pipeline.graph["raw_shards"]
    assert pipeline.missing(asset, "g00")
    repository = definitions_of(pipeline.profile).get_repository_def()
    key = dg.AssetKey("raw_shards")
    for reused in (False, True):
        materialize(pipeline.profile, repository, instance, Partition(asset.key, "g00"))
        event = instance.get_latest_materialization_event(key)
        assert event.asset_materialization.metadata["reused"].value is reused
    shutil.rmtree(Path(pipeline.storage.url) / "raw_shards")
    materialize(pipeline.profile, repository, instance, Partition(asset.key, "g00"))
    assert instance.get_latest_materialization_event(key).asset_materialization.metadata["reused"].value is False
    assert pipeline.missing(asset, "g00"), "the pipeline of the caller is another one"

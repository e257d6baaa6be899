"""Each evaluation set is a partition. Tests inspect metadata and checks while only some sets are materialized."""

from __future__ import annotations

import shutil
from pathlib import Path

import dagster as dg
import pytest

from assets.evaluation import report
from mobileclip2.asset_key import AssetKey, Partition
from mobileclip2.config.profile import load
from mobileclip2.engine import gc as garbage
from mobileclip2.engine import graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import UserError
from mobileclip2.models.image_text import ImageText
from mobileclip2.report import gather
from pipelines.definitions import definitions_of
from pipelines.run import materialize
from tests.pipelines.small import edited

KEY = dg.AssetKey("evaluation.pupil")
SETS = ["shapes", "vtab/flowers", "vtab-flowers"]
"""The last two names must not share a folder."""


@pytest.fixture
def pipeline(finished) -> Pipeline:
    def change(values):
        values["evaluation"] = [{"name": name, "url": "evaluation/shapes"} for name in SETS]
        values["gate"] = {"baseline": "wide"}

    return edited(finished, change)


def last(instance, partition):
    where = dg.AssetRecordsFilter(KEY, asset_partitions=[partition])
    return instance.fetch_materializations(where, limit=1).records[0].asset_materialization


def verdict(instance):
    record = instance.get_latest_asset_check_evaluation_record(dg.AssetCheckKey(KEY, "no_worse_than_baseline"))
    return record.evaluation


def test_a_new_code_version_discards_cached_features(finished, monkeypatch):
    """Cached features are only valid for the code version that made them."""
    computed = []
    embed = ImageText.embed_images
    monkeypatch.setattr(
        ImageText, "embed_images", lambda self, images: computed.append(len(images)) or embed(self, images)
    )

    def again() -> int:
        computed.clear()
        pipeline = Pipeline(load(finished))
        asset = pipeline.graph["evaluation/pupil"]
        pipeline.storage.delete_folder(asset.key)
        for name in asset.slices:
            pipeline.materialize("evaluation/pupil", name)
        return sum(computed)

    again()
    assert again() == 0
    monkeypatch.setitem(graph.CODE_VERSIONS, "evaluation", "another")
    assert again() > 0


def test_each_evaluation_set_is_a_separate_partition(pipeline, instance):
    repository = definitions_of(pipeline.profile).get_repository_def()
    assert repository.assets_defs_by_key[KEY].partitions_def.get_partition_keys() == SETS
    assert plan(pipeline).pairs == [(f"evaluation/{model}", name) for model in ("pupil", "wide") for name in SETS[1:]]

    materialize(pipeline.profile, repository, instance, Partition(AssetKey("evaluation/pupil"), "vtab/flowers"))
    pairs = plan(Pipeline(load(pipeline.profile.file))).pairs
    assert [name for key, name in pairs if key == "evaluation/pupil"] == ["vtab-flowers"]
    shown = last(instance, "vtab/flowers").metadata
    assert shown["reused"].value is False and "report" not in shown, "a set is missing"
    rows = {row.data["metric"]: row.data["value"] for row in shown["metrics"].value.records}
    assert rows["main_metric"] == rows["mean_per_class_recall"] == shown["main_metric"].value
    assert verdict(instance).severity == dg.AssetCheckSeverity.WARN
    assert "evaluation/pupil [vtab-flowers]: not materialized yet" in verdict(instance).description

    for key, name in pairs:
        materialize(pipeline.profile, repository, instance, Partition(key, name))
    materialize(pipeline.profile, repository, instance, Partition(AssetKey("evaluation/pupil"), "shapes"))
    entries = last(instance, "shapes").metadata
    assert entries["reused"].value is True and Path(entries["report"].path).is_file()
    assert "of 3 metrics fell" in verdict(instance).description, "judged over all sets, whichever came last"


def test_a_changed_set_reruns_alone_and_gc_finds_its_old_results(pipeline):
    for asset, name in list(pipeline.stale()):
        pipeline.materialize(asset.key, name)
    assert garbage.unneeded([pipeline], set(), []) == []
    before = {read.summary.part: read.prefix for read in pipeline.read("evaluation/pupil")}
    assert sorted(before) == sorted(SETS) and len(set(before.values())) == 3

    profile = Path(pipeline.profile.file)
    folder = Path(shutil.copytree(profile.parent / "evaluation" / "shapes", profile.parent / "evaluation" / "other"))
    (folder / "zeroshot_classification_templates.txt").write_text("one {c}\n")
    pipeline = edited(profile, lambda values: values["evaluation"][1].update(url="evaluation/other"))
    ran = []
    for asset, name in list(pipeline.stale()):
        pipeline.materialize(asset.key, name)
        ran.append((asset.key, name))
    assert ran == [("evaluation/pupil", "vtab/flowers"), ("evaluation/wide", "vtab/flowers")]
    left = garbage.unneeded([pipeline], set(), [])
    assert [each.group for each in left] == ["vtab-flowers"] * 2 and before["vtab/flowers"] in {
        each.path for each in left
    }
    garbage.delete(pipeline, left)
    pipeline.forget()
    assert not list(pipeline.stale()) and garbage.unneeded([pipeline], set(), []) == []


def test_a_report_that_cannot_be_written_does_not_fail_the_evaluation(finished, monkeypatch, caplog):
    def fail(pipeline):
        raise UserError("the set is gone")

    monkeypatch.setattr(gather, "store_report", fail)
    assert report(Pipeline(load(finished))) == {} and "the set is gone" in caplog.text

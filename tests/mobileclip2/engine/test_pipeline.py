import json
import os
import shutil

import pytest
import torch
import yaml

from demo.tars import write_tar
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import DamagedOutput, ShardError, StoreError, UserError, WeightsError
from tests.tiny import BAD_KEY, make_tiny


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("tiny")
    make_tiny(folder)
    return folder


@pytest.fixture
def profile(template, tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(template, folder)
    return folder / "tiny.yaml"


def edited(profile, change):
    # YAML anchors share objects, but a change must affect only one place
    values = json.loads(json.dumps(yaml.safe_load(profile.read_text())))
    change(values)
    profile.write_text(yaml.safe_dump(values, sort_keys=False))
    return Pipeline(load(profile))


def test_a_bad_sample_is_counted_and_named(profile):
    from mobileclip2.data import sidecar

    pipeline = Pipeline(load(profile))
    done = [pipeline.materialize("raw_shards", group) for group in pipeline.profile.group_names]
    assert sum(each.samples for each in done) == 4 * 6 - 1
    assert done[0].skip_reasons == {"truncated-image": 1}
    (read,) = pipeline.read("raw_shards", "g00")
    (name,) = [file.name for file in read.manifest.files if ".skipped." in file.name]
    (row,) = sidecar.read(read.fetch(name)).to_pylist()
    assert row["key"] == BAD_KEY and "bytes" in row["detail"]


def test_too_many_bad_samples_stop_the_stage(profile):
    pipeline = edited(profile, lambda values: values.update(max_bad_share=0.01))
    with pytest.raises(ShardError, match=rf"more than the accepted 1\.0%(.|\n)*truncated-image: 1 \({BAD_KEY}\)"):
        pipeline.materialize("raw_shards", "g00")


def test_a_missing_upstream_asset_is_named(profile):
    with pytest.raises(UserError, match=r"augmentations \[g00\]: raw_shards must be materialized first"):
        Pipeline(load(profile)).materialize("augmentations", "g00")


def test_a_second_materialization_computes_nothing(profile):
    assert Pipeline(load(profile)).materialize("raw_shards", "g00").computed == ["whole"]
    again = Pipeline(load(profile)).materialize("raw_shards", "g00")
    assert again.computed == [] and again.samples > 0


def test_a_higher_view_count_computes_only_the_new_views(profile):
    pipeline = Pipeline(load(profile))
    pipeline.materialize("raw_shards", "g00")
    before = pipeline.materialize("augmentations", "g00").summaries
    pipeline = edited(profile, lambda values: values["views"].update(count=4))
    done = pipeline.materialize("augmentations", "g00")
    assert done.computed == ["view-2", "view-3"]
    assert done.summaries["view-0"] == before["view-0"]


def test_a_changed_shard_affects_only_its_group(profile):
    pipeline = Pipeline(load(profile))
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
    shards = profile.parent / "shards"
    shutil.copy(shards / "00003.tar", shards / "00001.tar")
    pipeline = Pipeline(load(profile))
    asset = pipeline.graph["raw_shards"]
    assert pipeline.missing(asset, "g00") == []
    assert pipeline.missing(asset, "g01") == ["whole"]


def test_moved_shards_are_not_recomputed(profile):
    Pipeline(load(profile)).materialize("raw_shards", "g00")
    (profile.parent / "shards").rename(profile.parent / "elsewhere")
    pipeline = edited(profile, lambda values: values["sources"][0].update(url="elsewhere"))
    assert pipeline.missing(pipeline.graph["raw_shards"], "g00") == []


def test_two_sources_with_equal_names_do_not_overwrite_each_other(profile):
    shutil.copytree(profile.parent / "shards", profile.parent / "more")
    pipeline = edited(profile, lambda values: values["sources"].append({"name": "more", "url": "more"}))
    assert pipeline.materialize("raw_shards", "g01").samples == 2 * 12
    assert len({shard.id for shard in pipeline.inventory.shards}) == 8


def test_groups_and_shards_may_be_empty(profile):
    """Empty groups have views of equal bytes, but each part still needs its own fingerprint."""
    write_tar(profile.parent / "shards" / "00004.tar", [])
    pipeline = edited(profile, lambda values: values.update(groups=6))
    for key in ("raw_shards", "augmentations", "teacher_embeddings/narrow/image"):
        if key.startswith("teacher"):
            pipeline.materialize("teacher/narrow")
        done = {group: pipeline.materialize(key, group) for group in pipeline.profile.group_names}
    for group in ("g04", "g05"):
        assert done[group].samples == 0
        assert len({head.fingerprint for head in done[group].summaries.values()}) == 2
    assert {read.manifest.facts["embed_dim"] for read in pipeline.read("teacher_embeddings/narrow/image")} == {8}


def test_trainings_reject_shards_without_valid_samples(profile):
    for path in (profile.parent / "shards").iterdir():
        write_tar(path, [])
    pipeline = Pipeline(load(profile))
    for group in pipeline.profile.group_names:
        pipeline.materialize("raw_shards", group)
    for key in ("captioner/first", "student/plain"):
        with pytest.raises(ShardError, match="raw_shards: no shard has a valid sample to train on"):
            pipeline.materialize(key)


def test_a_missing_source_names_its_path(profile):
    pipeline = edited(profile, lambda values: values["sources"][0].update(url="nowhere"))
    with pytest.raises(ShardError, match=r"source 'made': no shard matches .* in .*nowhere"):
        pipeline.materialize("raw_shards", "g00")


def test_an_unreadable_source_folder_is_an_error(tiny, monkeypatch):
    inner = tiny.parent / "shards" / "more"
    inner.mkdir()
    scandir = os.scandir

    def refused(folder):
        if str(folder) == str(inner):
            raise PermissionError(13, "Permission denied")
        return scandir(folder)

    monkeypatch.setattr("os.scandir", refused)  # file modes do not restrict root
    with pytest.raises(ShardError, match=r"shards/more: cannot be listed \(Permission denied\); make it readable"):
        Pipeline(load(tiny)).materialize("raw_shards", "g00")


def test_a_deleted_shard_is_named(profile):
    pipeline = Pipeline(load(profile))
    assert pipeline.inventory.shards
    (profile.parent / "shards" / "00000.tar").unlink()
    with pytest.raises(ShardError, match=r"00000\.tar: (cannot be read \(No such file|the shard is missing)"):
        pipeline.materialize("raw_shards", "g00")


def test_a_deleted_stored_file_is_named(profile):
    pipeline = Pipeline(load(profile))
    pipeline.materialize("raw_shards", "g00")
    (read,) = pipeline.read("raw_shards", "g00")
    read.fetch(read.manifest.files[0].name).unlink()
    with pytest.raises(DamagedOutput, match=r"raw_shards/.*\.parquet: stored file is gone"):
        pipeline.materialize("augmentations", "g00")


def test_a_stored_file_truncated_after_planning_is_named(profile):
    pipeline = Pipeline(load(profile))
    pipeline.materialize("raw_shards", "g00")
    (read,) = pipeline.read("raw_shards", "g00")
    name = read.manifest.files[0].name
    path = read.fetch(name)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedOutput, match=f"{name}: it no longer matches its manifest; run again"):
        read.fetch(name)


def test_weights_of_the_wrong_shape_are_rejected(profile):
    weights = profile.parent / "weights"
    shutil.copy(weights / "narrow.safetensors", weights / "wide.safetensors")
    with pytest.raises(WeightsError, match=r"wide\.safetensors: does not fit the architecture: .* expected \["):
        Pipeline(load(profile)).materialize("teacher/wide")


def test_weights_with_another_hash_are_rejected(profile):
    pipeline = edited(profile, lambda values: values["teachers"][0]["model"]["weights"].update(sha256="0" * 64))
    with pytest.raises(WeightsError, match="the profile pins 0000"):
        pipeline.materialize("teacher/wide")


def test_an_unwritable_store_is_an_error(profile):
    (profile.parent / "store").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match="a file lies where a folder is needed; point 'store'"):
        Pipeline(load(profile)).materialize("raw_shards", "g00")


@pytest.fixture(scope="module")
def finished(template, tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished") / "tiny"
    shutil.copytree(template, folder)
    pipeline = Pipeline(load(folder / "tiny.yaml"))
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)
    return folder


@pytest.mark.slow
class TestWholeGraph:
    @pytest.fixture
    def profile(self, finished, tmp_path):
        folder = tmp_path / "tiny"
        shutil.copytree(finished, folder)
        return folder / "tiny.yaml"

    def stale(self, pipeline):
        return sorted({f"{a.key}:{p}" for a, g in pipeline.stale() for p in pipeline.missing(a, g)})

    def first(self, pipeline):
        """Return the stale parts whose inputs are all finished."""
        return sorted(
            {
                f"{a.key}:{p}"
                for a, g in pipeline.stale()
                for p in pipeline.missing(a, g)
                if pipeline.task_for(a, a.slices[p], g) is not None
            }
        )

    def test_a_second_run_finds_everything_fresh(self, profile):
        assert self.stale(Pipeline(load(profile))) == []

    def test_every_manifest_matches_its_files(self, profile):
        pipeline = Pipeline(load(profile))
        for asset in pipeline.graph:
            for read in pipeline.read(asset):
                assert read.verify(read.manifest) == []

    def test_a_changed_logit_scale_affects_only_students(self, profile):
        pipeline = edited(profile, lambda values: values["teachers"][0].update(logit_scale=51))
        assert self.stale(pipeline) == ["evaluation/pupil:shapes", "student/pupil:whole"]

    def test_batch_workers_and_device_make_no_part_stale(self, profile):
        def change(values):
            values.update(batch=3, device="cpu")
            values["students"][0]["train"].update(workers=2, log_every=1, checkpoint_every=7)

        assert self.stale(edited(profile, change)) == []

    def test_a_changed_captioner_affects_no_image_embedding(self, profile):
        stale = self.stale(edited(profile, lambda values: values["captioners"][1]["train"].update(seed=3)))
        assert "captioner/second:whole" in stale and "teacher_embeddings/wide/second:caption-0" in stale
        assert not [key for key in stale if "/image" in key or "/text" in key or "first" in key]

    def test_a_higher_caption_count_computes_only_the_new_captions(self, profile):
        pipeline = edited(profile, lambda values: values["captioners"][0].update(captions=3))
        assert self.first(pipeline) == ["synthetic_captions/first:caption-2"]
        assert not [key for key in self.stale(pipeline) if key.endswith(("caption-0", "caption-1", "view-0", "view-1"))]

    def test_the_order_of_teachers_affects_no_embedding(self, profile):
        stale = self.stale(edited(profile, lambda values: values["teachers"].reverse()))
        assert {key.partition(":")[0] for key in stale} == {"reinforced_dataset", "student/pupil", "evaluation/pupil"}

    def test_the_teachers_order_and_dimensions_are_recorded(self, profile):
        pipeline = Pipeline(load(profile))
        facts = pipeline.read("reinforced_dataset")[0].manifest.facts
        assert facts["teachers"] == ["wide", "narrow"]
        assert facts["teacher_dims"] == {"wide": 24, "narrow": 8}

    def test_an_added_evaluation_set_makes_only_its_own_evaluations_stale(self, profile):
        pipeline = edited(
            profile, lambda values: values["evaluation"].append({"name": "again", "url": "evaluation/shapes"})
        )
        assert {key.partition(":")[2] for key in self.stale(pipeline)} == {"again"}

    def test_manifests_contain_no_path_and_no_time(self, profile):
        for path in (profile.parent / "store").rglob("manifest.json"):
            text = path.read_text()
            assert str(profile.parent) not in text
            assert not {"time", "date", "seconds", "host"} & set(json.loads(text))

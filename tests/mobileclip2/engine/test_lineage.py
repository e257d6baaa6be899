import json
import shutil
from pathlib import Path

import pytest
import torch

from mobileclip2.config.profile import load
from mobileclip2.engine import gc
from mobileclip2.engine.lineage import LINEAGE, read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.trace import lineage, lineage_of
from mobileclip2.errors import DamagedOutput, UserError
from mobileclip2.store.lease import acquire
from pipelines.cli import main

pytestmark = pytest.mark.slow


def run(pipeline):
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)


@pytest.fixture
def profile(undisturbed, tmp_path):
    """Return a copy of the materialized tiny profile."""
    torch.set_num_threads(1)
    return shutil.copytree(undisturbed.parent, tmp_path / "tiny") / "tiny.yaml"


def folder_of(pipeline, key):
    return Path(pipeline.storage.url) / pipeline.read(key)[0].prefix


def edit(profile, before, after):
    assert before in profile.read_text()
    profile.write_text(profile.read_text().replace(before, after))
    return Pipeline(load(profile))


class TestLineage:
    def test_lineage_file_of_every_checkpoint_matches_the_store(self, profile):
        pipeline = Pipeline(load(profile))
        for key in ("student/pupil", "captioner/second", "teacher/wide"):
            assert read_lineage(folder_of(pipeline, key) / LINEAGE) == lineage_of(pipeline, key)

    def test_lineage_reaches_shards_weights_and_captioner(self, profile):
        pipeline = Pipeline(load(profile))
        found = read_lineage(folder_of(pipeline, "student/pupil") / LINEAGE)
        assets = {node.asset for node in found.nodes.values()}
        assert {"raw_shards", "teacher/wide", "captioner/first", "captioner/second", "reinforced_dataset"} <= assets
        outside = {value for node in found.nodes.values() for value in node.made_from.values()} - set(found.nodes)
        weights = load(profile).teachers[0].model.weights
        assert pipeline.inventory.digest(weights, None) in outside
        assert {f"raw_shards:whole@{group}" for group in ("g00", "g01")} <= set(found.nodes)
        for node in found.nodes.values():
            assert (Path(pipeline.storage.url) / node.path / "manifest.json").is_file()

    def test_command_line_prints_equal_lineage_for_key_and_file(self, profile, capsys):
        assert main(["lineage", "student/pupil", "--profile", str(profile)]) == 0
        by_key = capsys.readouterr().out
        assert "raw_shards" in by_key and "teacher/narrow" in by_key
        path = folder_of(Pipeline(load(profile)), "student/pupil") / LINEAGE
        assert main(["lineage", str(path), "--profile", str(profile)]) == 0
        assert capsys.readouterr().out == by_key

    def test_missing_and_invalid_files_are_rejected(self, profile, tmp_path):
        with pytest.raises(UserError, match="cannot read the lineage"):
            read_lineage(tmp_path / "none.json")
        (tmp_path / "other.json").write_text("{}")
        with pytest.raises(UserError, match="not a lineage file"):
            read_lineage(tmp_path / "other.json")
        pipeline = edit(profile, "count: 2, seed: 1", "count: 2, seed: 2")
        with pytest.raises(UserError, match="student/pupil: not materialized yet"):
            lineage_of(pipeline, "student/pupil")


class TestGarbage:
    def unneeded(self, pipeline, committed=(), lineages=()):
        return {each.path for each in gc.unneeded([pipeline], set(committed), lineages)}

    def test_finished_profile_has_no_unneeded_outputs(self, profile):
        assert self.unneeded(Pipeline(load(profile))) == set()

    def test_outputs_before_a_change_are_unneeded(self, profile):
        old = gc.needed(Pipeline(load(profile)))
        pipeline = edit(profile, "count: 2, seed: 1", "count: 2, seed: 2")
        run(pipeline)
        left = self.unneeded(pipeline)
        assert left == old - gc.needed(pipeline)
        assert any(path.startswith("augmentations/") for path in left)

    def test_gc_deletes_only_with_delete_option(self, profile, capsys):
        run(edit(profile, "count: 2, seed: 1", "count: 2, seed: 2"))
        assert main(["gc", "--profile", str(profile)]) == 0
        assert "delete them with --delete" in capsys.readouterr().out
        pipeline = Pipeline(load(profile))
        left = self.unneeded(pipeline)
        assert left
        assert main(["gc", "--delete", "--profile", str(profile)]) == 0
        assert self.unneeded(Pipeline(load(profile))) == set()
        assert not any((Path(pipeline.storage.url) / path).exists() for path in left)
        assert list(Pipeline(load(profile)).stale()) == []

    def test_another_profile_over_the_same_store_keeps_its_outputs(self, profile, capsys):
        other = Path(shutil.copy(profile, profile.with_name("other.yaml")))
        pipeline = edit(profile, "count: 2, seed: 1", "count: 2, seed: 2")
        assert self.unneeded(pipeline)
        assert main(["gc", str(other), "--profile", str(profile)]) == 0
        assert "nothing to delete" in capsys.readouterr().out

    def test_a_commit_keeps_its_outputs(self, profile):
        old = gc.needed(Pipeline(load(profile)))
        pipeline = edit(profile, "count: 2, seed: 1", "count: 2, seed: 2")
        assert self.unneeded(pipeline, committed=old) == set()

    def test_a_kept_checkpoint_keeps_its_lineage(self, profile, tmp_path):
        kept = tmp_path / "checkpoints" / LINEAGE
        kept.parent.mkdir()
        pipeline = Pipeline(load(profile))
        shutil.copy(folder_of(pipeline, "student/pupil") / LINEAGE, kept)
        nodes = {node.path for node in read_lineage(kept).nodes.values()}
        changed = edit(profile, "count: 2, seed: 1", "count: 2, seed: 2")
        run(changed)
        left = self.unneeded(changed, lineages=[kept])
        assert left and not left & nodes

    def test_keep_option_accepts_only_folders_with_checkpoints(self, profile, tmp_path, capsys):
        pipeline = Pipeline(load(profile))
        for name, key in {"one": "student/pupil", "two": "teacher/wide"}.items():
            (tmp_path / name / "pupil").mkdir(parents=True)
            shutil.copy(folder_of(pipeline, key) / LINEAGE, tmp_path / name / "pupil")
        edit(profile, "count: 2, seed: 1", "count: 2, seed: 2")
        keep = ["--keep", str(tmp_path / "one"), "--keep", str(tmp_path / "two")]
        assert main(["gc", *keep, "--profile", str(profile)]) == 0
        assert "nothing to delete" in capsys.readouterr().out
        for wrong in (tmp_path / "misspelt", tmp_path / "one" / "pupil" / LINEAGE):
            assert main(["gc", "--delete", "--keep", str(wrong), "--profile", str(profile)]) == 1
            assert f"{wrong}: this folder contains no lineage.json" in capsys.readouterr().err
        assert all(
            (Path(pipeline.storage.url) / node.path).exists()
            for node in lineage_of(pipeline, "student/pupil").nodes.values()
        )

    @pytest.mark.parametrize("key", ["raw_shards", "teacher/wide"])
    def test_outputs_downstream_of_a_missing_output_are_kept(self, profile, key):
        """The recomputed output has the same bytes, which makes the outputs downstream current again."""
        (folder_of(Pipeline(load(profile)), key) / "manifest.json").unlink()
        pipeline = Pipeline(load(profile))
        assert self.unneeded(pipeline) == set()
        run(pipeline)
        assert self.unneeded(Pipeline(load(profile))) == set()

    def test_a_run_keeps_outputs_that_its_profile_needs(self, profile):
        old = Pipeline(load(profile))
        payload = old.lock_payload
        pipeline = edit(profile, "count: 2, seed: 1", "count: 2, seed: 2")
        left = self.unneeded(pipeline)
        with acquire(pipeline.storage, ["run/there/1"], payload):
            assert self.unneeded(pipeline) == set()
        assert self.unneeded(pipeline) == left != set()

    def test_unfinished_outputs_of_the_profile_are_kept(self, profile):
        pipeline = edit(profile, "count: 2, seed: 1", "count: 2, seed: 2")
        asset = pipeline.graph["augmentations"]
        task = pipeline.task_for(asset, asset.slices["view-0"], "g00")
        task.output.write("half.parquet", b"half")
        assert task.output.prefix not in self.unneeded(pipeline)
        again = edit(profile, "count: 2, seed: 2", "count: 2, seed: 3")
        (stored,) = [each for each in gc.unneeded([again], set(), []) if each.path == task.output.prefix]
        assert not stored.finished and stored.files == 2  # the file and its hash

    def test_scratch_of_finished_outputs_is_unneeded(self, profile):
        pipeline = edit(profile, "count: 2, seed: 1", "count: 2, seed: 2")
        run(pipeline)
        for asset, group in [("student/pupil", None), ("evaluation/pupil", "shapes")]:
            assert pipeline.graph[asset].slices
            (read,) = pipeline.read(asset, group)
            for name in ("resume.pt", "features/000000.safetensors"):
                pipeline.storage.write(f".scratch/{asset}/{read.summary.fingerprint}/{name}", b"1234")
            (Path(pipeline.storage.url) / read.prefix / "manifest.json").rename(profile.parent / "aside")
            assert f".scratch/{asset}/{read.summary.fingerprint}" not in self.unneeded(Pipeline(load(profile)))
            (profile.parent / "aside").rename(Path(pipeline.storage.url) / read.prefix / "manifest.json")
            pipeline = Pipeline(load(profile))
            assert f".scratch/{asset}/{read.summary.fingerprint}" in self.unneeded(pipeline), "it is finished"
        outputs = gc.unneeded([pipeline], set(), [])
        (stored,) = [each for each in outputs if each.path.startswith(".scratch/student")]
        assert (stored.files, stored.bytes, stored.finished) == (2, 8, False)
        gc.delete(pipeline, outputs)
        left = [key for key, _ in pipeline.storage.list(".scratch/")]
        assert left and all(key.startswith(".scratch/times/") for key in left)
        assert not list(Pipeline(load(profile)).stale())


def test_lineage_contains_no_local_path_and_no_time(profile):
    text = (folder_of(Pipeline(load(profile)), "student/pupil") / LINEAGE).read_text()
    assert str(profile.parent) not in text
    assert not {"time", "host", "date"} & set(json.loads(text))


def test_an_input_deleted_during_training_is_named(profile):
    pipeline = Pipeline(load(profile))
    asset = pipeline.graph["student/plain"]
    task = pipeline.task_for(asset, asset.slices["whole"], None)
    (folder_of(pipeline, "raw_shards") / "manifest.json").unlink()
    pipeline.forget()
    with pytest.raises(DamagedOutput, match="raw_shards: it was deleted or damaged after it was read; run again"):
        lineage(pipeline, [task])

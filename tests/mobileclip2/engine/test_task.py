"""A group that several processes compute in chunks has the same manifests as a group that one process computes."""

import shutil

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.lineage import LINEAGE, Lineage
from mobileclip2.engine.pipeline import Pipeline, TaskBatch
from mobileclip2.engine.stage import load_stage
from mobileclip2.engine.task import TaskSpec, run_shard_task, run_task
from mobileclip2.engine.trace import lineage
from mobileclip2.errors import UserError
from mobileclip2.progress import silent
from mobileclip2.store import open_storage
from mobileclip2.store.lease import acquire


class InChunks:
    """Run chunks one after the other, in reverse order, each with its own storage."""

    def __init__(self, of: int) -> None:
        self.of = of
        self.unfinished: list[int] = []

    def run(self, batch: TaskBatch) -> float:
        spec = TaskSpec.of(batch)
        spec.write(batch.pipeline.storage)
        stage = load_stage(batch.asset.stage)
        for index in reversed(range(self.of)):
            run_shard_task(open_storage(batch.pipeline.storage.url), spec.key, index, self.of, silent)
            self.unfinished.append(len(stage.unfinished(batch)))
            assert not any(part.output.has("manifest.json") for part in batch.tasks)
        stage.commit(batch)
        return 0.0


def manifests(profile):
    store = profile.parent / "store"
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in store.rglob("manifest.json")}


@pytest.fixture
def raw(tiny):
    """Return a profile with finished raw shards."""
    pipeline = Pipeline(load(tiny))
    pipeline.materialize("raw_shards", "g00")
    return tiny


def task_batch(profile, key, group="g00"):
    pipeline = Pipeline(load(profile))
    asset = pipeline.graph[key]
    return TaskBatch(
        pipeline, asset, group, [pipeline.task_for(asset, part, group) for part in asset.slices.values()], silent
    )


@pytest.mark.parametrize("of", [1, 2, 3])
def test_chunks_give_the_manifests_of_one_run(raw, of, tmp_path):
    other = shutil.copytree(raw.parent, tmp_path / "other") / raw.name
    Pipeline(load(raw)).materialize("augmentations", "g00")
    compute = InChunks(of)
    done = Pipeline(load(other), compute).materialize("augmentations", "g00")
    assert done.computed == ["view-0", "view-1"]
    assert compute.unfinished == [2, 1, 0][-of:]
    assert manifests(other) == manifests(raw)


def test_chunks_of_embeddings_give_the_manifests_of_one_run(raw, tmp_path):
    Pipeline(load(raw)).materialize("augmentations", "g00")
    Pipeline(load(raw)).materialize("teacher/wide")
    other = shutil.copytree(raw.parent, tmp_path / "other") / raw.name
    Pipeline(load(raw)).materialize("teacher_embeddings/wide/image", "g00")
    Pipeline(load(other), InChunks(2)).materialize("teacher_embeddings/wide/image", "g00")
    assert manifests(other) == manifests(raw)


def test_a_chunk_keeps_finished_shards(raw):
    batch = task_batch(raw, "augmentations")
    spec = TaskSpec.of(batch)
    spec.write(batch.pipeline.storage)
    first, second = batch.shards
    run_shard_task(batch.pipeline.storage, spec.key, 0, 2, silent)
    marked = batch.tasks[0].output.fetch(f"{first.id}.parquet")
    marked.write_bytes(b"as an earlier process left it")
    run_shard_task(batch.pipeline.storage, spec.key, 0, 1, silent)
    assert marked.read_bytes() == b"as an earlier process left it"
    assert batch.tasks[0].output.has(f"{second.id}.parquet")


def test_a_chunk_reads_only_the_spec(raw):
    """The sources and the profile are deleted before the chunk runs."""
    batch = task_batch(raw, "augmentations")
    spec = TaskSpec.of(batch)
    spec.write(batch.pipeline.storage)
    shutil.rmtree(raw.parent / "shards")
    raw.unlink()
    run_shard_task(batch.pipeline.storage, spec.key, 0, 1, silent)
    assert load_stage(batch.asset.stage).unfinished(batch) == []


def test_chunks_run_while_the_run_holds_the_lease(raw):
    batch = task_batch(raw, "augmentations")
    spec = TaskSpec.of(batch)
    spec.write(batch.pipeline.storage)
    with acquire(batch.pipeline.storage, [part.output.prefix for part in batch.tasks]):
        run_shard_task(batch.pipeline.storage, spec.key, 0, 1, silent)
    assert load_stage(batch.asset.stage).unfinished(batch) == []


def test_a_batch_without_shards_runs_as_one_task(raw):
    batch = task_batch(raw, "teacher/wide", None)
    spec = TaskSpec.of(batch)
    assert spec.shards is None
    spec.write(batch.pipeline.storage)
    run_task(batch.pipeline.storage, spec.key, silent)
    pipeline = Pipeline(load(raw))
    assert pipeline.missing(pipeline.graph["teacher/wide"], None) == []
    (raw.parent / "weights" / "wide.safetensors").unlink()
    run_task(batch.pipeline.storage, spec.key, silent)  # finished, so the deleted weights are not needed


def test_a_training_worker_hashes_no_source(raw, tmp_path, monkeypatch):
    """Hashing a large dataset takes hours while GPUs wait, and the sources can change."""
    Pipeline(load(raw)).materialize("raw_shards", "g01")
    batch = task_batch(raw, "student/plain", None)
    TaskSpec.of(batch).write(batch.pipeline.storage)
    expected = lineage(batch.pipeline, batch.tasks)
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "another machine"))
    monkeypatch.setattr("mobileclip2.engine.source_inventory.file_sha256", lambda path: pytest.fail(f"hashes {path}"))
    run_task(batch.pipeline.storage, TaskSpec.of(batch).key, silent)
    assert Lineage.model_validate_json(batch.tasks[0].output.read(LINEAGE)) == expected


def test_the_spec_name_depends_only_on_the_batch(raw):
    first, again = TaskSpec.of(task_batch(raw, "augmentations")), TaskSpec.of(task_batch(raw, "augmentations"))
    assert first == again and first.name == again.name
    assert first.name.startswith("augmentations-") and len(first.name) == len("augmentations-") + 16
    fewer = first.model_copy(update={"slices": first.slices[:1]})
    assert fewer.name != first.name


def test_another_code_version_is_rejected(raw):
    batch = task_batch(raw, "augmentations")
    spec = TaskSpec.of(batch).model_copy(update={"code_version": "0"})
    spec.write(batch.pipeline.storage)
    with pytest.raises(
        UserError, match=r"augmentations: the task spec needs version 0 .* start workers from the same image"
    ):
        run_shard_task(batch.pipeline.storage, spec.key, 0, 1, silent)

import shutil

import pytest
import torch

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline, TaskBatch
from mobileclip2.errors import ShardError
from mobileclip2.progress import silent
from mobileclip2.stages.trained import frozen_features, publish, shards_of, tables_of


def work_on(profile, key):
    pipeline = Pipeline(load(profile))
    asset = pipeline.graph[key]
    (part,) = asset.slices.values()
    return TaskBatch(pipeline, asset, None, [pipeline.task_for(asset, part, None)], silent)


def test_only_rank_0_publishes(tiny, monkeypatch):
    batch = work_on(tiny, "teacher/wide")
    monkeypatch.setenv("RANK", "1")
    publish(batch, None, lambda folder: pytest.fail(f"wrote into {folder}, which the first process clears"), [], {})
    assert batch.tasks[0].output.read_manifest() is None


def test_publish_stores_the_files_and_deletes_the_scratch_folder(tiny):
    batch = work_on(tiny, "teacher/wide")
    publish(batch, None, lambda folder: (folder / "a.txt").write_text("a"), ["a.txt"], {})
    assert [file.name for file in batch.tasks[0].output.read_manifest().files] == ["a.txt"]
    assert not (batch.pipeline.scratch / "teacher/wide" / batch.tasks[0].fingerprint).exists()


def test_shards_of_ignores_added_and_rejects_deleted_shards(tiny):
    Pipeline(load(tiny)).materialize("raw_shards", "g00")
    pipeline = Pipeline(load(tiny))
    (read,) = pipeline.read("raw_shards", "g00")
    before = shards_of(read, pipeline.inventory)
    assert before == pipeline.inventory.group_shards("g00")
    folder = tiny.parent / "shards"
    shutil.copy(folder / "00000.tar", folder / "00100.tar")
    pipeline = Pipeline(load(tiny))
    assert len(pipeline.inventory.group_shards("g00")) == len(before) + 1
    assert shards_of(read, pipeline.inventory) == before
    (folder / "00000.tar").unlink()
    with pytest.raises(
        ShardError, match=r"raw_shards \[g00\]: the source no longer has the shard of '00000-.*parquet'"
    ):
        shards_of(read, Pipeline(load(tiny)).inventory)


@pytest.mark.parametrize("damage", ["flipped", "exchanged", "truncated"])
def test_damaged_frozen_features_are_recomputed(tiny, damage, caplog):
    for group in ("g00", "g01"):
        Pipeline(load(tiny)).materialize("raw_shards", group)
    batch = work_on(tiny, "captioner/first")
    tables = list(tables_of(batch.tasks[0].inputs["data"], batch.inventory))
    computed = []

    def compute(shard, table):
        computed.append(shard.id)
        return {"features": torch.full((table.num_rows, 2), float(len(set(computed))))}

    expected = frozen_features(batch, tables, compute)
    files = sorted((batch.scratch / "features").iterdir())
    assert len(computed) == len(files) == len(tables) > 1
    if damage == "exchanged":
        files[0].write_bytes(files[1].read_bytes())
    else:
        data = files[0].read_bytes()
        files[0].write_bytes(data[:-1] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 1]))
    computed.clear()
    assert torch.equal(frozen_features(batch, tables, compute)["features"], expected["features"])
    assert computed == [tables[0][0].id]
    assert f"{files[0]}: " in caplog.text and "its features are recomputed" in caplog.text

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline, TaskBatch
from mobileclip2.executors.chunks import CHUNK_SECONDS, CHUNKS_A_PROCESS, MAX_CHUNKS, count_chunks, seconds_a_shard
from mobileclip2.progress import silent


def test_a_chunk_takes_ten_minutes():
    for shards in (1, 2, 7, 100, 3125, 50_000):
        for seconds in (0.01, 0.3, 10, 61.7, 599, 601, 5000):
            chunks = count_chunks(shards, seconds, 8)
            assert 1 <= chunks <= min(shards, MAX_CHUNKS)
            if chunks not in {1, shards, MAX_CHUNKS}:
                assert CHUNK_SECONDS / 2 < shards * seconds / chunks <= CHUNK_SECONDS
    assert count_chunks(3125, 10, 8) == count_chunks(3125, 10, 512) == 53


def test_without_a_rate_every_process_gets_a_few_chunks():
    assert count_chunks(1000, None, 8) == 8 * CHUNKS_A_PROCESS
    assert count_chunks(3, None, 8) == 3


def test_a_group_without_shards_is_one_chunk():
    assert count_chunks(0, None, 8) == count_chunks(0, 10.0, 8) == 1


def test_seconds_per_shard_come_from_the_rate_of_the_profile(tiny):
    tiny.write_text(f"{tiny.read_text()}\nrates: {{augmentations: 5}}\n")
    pipeline = Pipeline(load(tiny))
    done = pipeline.materialize("raw_shards", "g00")
    asset = pipeline.graph["augmentations"]
    parts = [pipeline.task_for(asset, part, "g00") for part in asset.slices.values()]
    batch = TaskBatch(pipeline, asset, "g00", parts, silent)
    assert len(batch.shards) == len(parts) == 2
    assert seconds_a_shard(batch) == pytest.approx(2 * done.samples / 5 / 2)


def test_seconds_per_shard_are_unknown_without_a_sample_count(tiny):
    pipeline = Pipeline(load(tiny))
    asset = pipeline.graph["raw_shards"]
    batch = TaskBatch(pipeline, asset, "g00", [pipeline.task_for(asset, asset.slices["whole"], "g00")], silent)
    assert seconds_a_shard(batch) is None

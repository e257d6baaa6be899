"""Prefetched images equal those that are preprocessed in sequence, and keep their order."""

import threading

import pytest
import torch

from mobileclip2.config.profile import load
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.shard_stage import images_of, raw_table
from mobileclip2.stages import prefetch as ahead
from mobileclip2.stages.prefetch import prepared, preprocessed_images
from tests.tiny import make_tiny

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    pipeline = Pipeline(load(make_tiny(tmp_path_factory.mktemp("tiny"), shards=1, samples=9)))
    pipeline.materialize("raw_shards", "g00")
    (shard,) = pipeline.inventory.group_shards("g00")
    (raw,) = pipeline.read("raw_shards", "g00")
    return shard, raw_table(raw, shard)


@pytest.mark.parametrize("batch_size", [1, 2, 3, 8, 50])
def test_preprocessed_images_equal_those_of_evaluation(stored, batch_size):
    shard, raw = stored
    preprocess = Preprocess(32, mean=(0.1, 0.2, 0.3), std=(0.7, 0.8, 0.9))
    plain = [preprocess.whole(image) for _, image in images_of(shard, raw)]
    found = list(preprocessed_images(shard, raw, preprocess, batch_size, CPU))
    assert [len(batch) for batch in found] == [
        len(plain[start : start + batch_size]) for start in range(0, len(plain), batch_size)
    ]
    assert torch.equal(torch.cat(found), torch.stack(plain)) and len(plain) == 8
    assert found[0].is_contiguous(memory_format=torch.channels_last)


def test_samples_keep_their_order(stored, monkeypatch):
    second_is_done = threading.Event()

    def prepare(number, image):
        if number == 1:
            second_is_done.set()
        elif number == 0:
            assert second_is_done.wait(10)
        return torch.tensor(number)

    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert torch.cat(list(prepared(*stored, prepare, 3))).tolist() == list(range(8))


def test_at_most_three_batches_are_in_memory(stored, monkeypatch):
    read = []
    encoded = ahead.encoded_images
    monkeypatch.setattr(
        ahead, "encoded_images", lambda *args: (read.append(sample[0]) or sample for sample in encoded(*args))
    )
    found = prepared(*stored, lambda number, _: torch.tensor(number), 2)
    for taken in range(1, 3):
        next(found)
        assert len(read) == 2 * (taken + 2)
    found.close()
    assert len(read) == 8


def test_an_unreadable_image_ends_the_stage(stored):
    def prepare(number, image):
        if number == 4:
            raise BadSample("broken-image", "the fifth")
        return torch.tensor(number)

    with pytest.raises(BadSample, match="the fifth"):
        list(prepared(*stored, prepare, 2))

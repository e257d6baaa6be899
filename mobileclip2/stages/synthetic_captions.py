"""Writes the missing captions of every image. An image is encoded once for all of them."""

from __future__ import annotations

import pyarrow as pa

from mobileclip2.captioners.captions import caption_images
from mobileclip2.captioners.load import load_captioner
from mobileclip2.data import sidecar as sidefile
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, close_parts, raw_table, write_side
from mobileclip2.engine.source_inventory import Shard
from mobileclip2.models.build import CONFIG, WEIGHTS
from mobileclip2.models.device import choose_device, inference
from mobileclip2.stages.prefetch import batches, whole_images


def begin(work: TaskBatch) -> WriteShard:
    """Return the function that writes the missing captions of a shard."""
    device = choose_device(work.profile.device)
    stored = work.parts[0].only("captioner")
    captioner = load_captioner(stored.fetch(CONFIG), stored.fetch(WEIGHTS))
    captioner.model.to(device)
    settings = work.profile.captioner(work.asset.name).generation

    def write(shard: Shard, parts: list[Task]) -> None:
        raw = raw_table(parts[0].only("raw_shards"), shard)
        numbers = [part.part.declared["caption"] for part in parts]
        keys = raw.column("key").to_pylist()
        images = whole_images(shard, raw, captioner.preprocess, work.profile.batch, device)
        texts: dict[int, list[str]] = {number: [] for number in numbers}
        failures = []
        for some, their_keys in zip(images, batches(keys, work.profile.batch), strict=True):
            with inference(device):
                written = caption_images(captioner, some, their_keys, numbers, settings)
            for row in written.captions:
                for number, text in zip(numbers, row, strict=True):
                    texts[number].append(text)
            failures += written.failures
        for part, number in zip(parts, numbers, strict=True):
            failed = [failure for failure in failures if failure.caption == number]
            skipped = pa.table(
                {
                    "key": pa.array([failure.key for failure in failed], pa.string()),
                    "reason": pa.array([failure.reason for failure in failed], pa.string()),
                    "detail": pa.array([f"caption {number}, {settings.retries} retries" for _ in failed], pa.string()),
                }
            )
            write_side(
                part, shard, pa.table({"key": keys, "caption": texts[number]}, schema=sidefile.CAPTIONS), skipped
            )

    return write


run = ShardStage(begin, close_parts)

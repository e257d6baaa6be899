"""Generate the missing captions of every image. Each image is encoded once for all its captions."""

from __future__ import annotations

from itertools import islice

import pyarrow as pa

from mobileclip2.captioners.captions import caption_images
from mobileclip2.captioners.load import load_captioner
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, commit_tasks, raw_table, write_sidecar
from mobileclip2.models.build import CONFIG, WEIGHTS
from mobileclip2.models.device import choose_device, inference
from mobileclip2.stages.prefetch import preprocessed_images


def begin(batch: TaskBatch) -> WriteShard:
    """Return the function that generates the missing captions of a shard."""
    device = choose_device(batch.profile.device)
    stored = batch.tasks[0].only("captioner")
    captioner = load_captioner(stored.fetch(CONFIG), stored.fetch(WEIGHTS))
    captioner.model.to(device)
    settings = batch.profile.captioner(batch.asset.name).generation

    def write(shard: Shard, tasks: list[Task]) -> None:
        raw = raw_table(tasks[0].only("raw_shards"), shard)
        numbers = [task.slice.declared["caption"] for task in tasks]
        keys = raw.column("key").to_pylist()
        texts: dict[int, list[str]] = {number: [] for number in numbers}
        failures, remaining = [], iter(keys)
        for pixels in preprocessed_images(shard, raw, captioner.preprocess, batch.profile.batch, device):
            batch_keys = list(islice(remaining, len(pixels)))
            with inference(device):
                written, failed = caption_images(captioner, pixels, batch_keys, numbers, settings)
            for row in written:
                for number, text in zip(numbers, row, strict=True):
                    texts[number].append(text)
            failures += failed
        for task, number in zip(tasks, numbers, strict=True):
            detail = f"caption {number}, {settings.retries} retries"
            failed = [failure for failure in failures if failure.caption == number]
            skipped = [{"key": failure.key, "reason": failure.reason, "detail": detail} for failure in failed]
            table = pa.table({"key": keys, "caption": texts[number]}, schema=sidecar.CAPTIONS)
            write_sidecar(task, shard, table, pa.Table.from_pylist(skipped))

    return write


run = ShardStage(begin, commit_tasks)

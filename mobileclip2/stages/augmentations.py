"""Draw the augmentation parameters of the missing views from the sizes of the images."""

from __future__ import annotations

import pyarrow as pa

from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import sample_view
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, commit_tasks, raw_table, write_sidecar


def begin(batch: TaskBatch) -> WriteShard:
    """Return the function that draws the missing views of a shard."""
    views = batch.profile.views

    def write(shard: Shard, tasks: list[Task]) -> None:
        raw = raw_table(tasks[0].only("raw_shards"), shard)
        keys, widths, heights = (raw.column(name).to_pylist() for name in ("key", "width", "height"))
        for task in tasks:
            view = task.slice.declared["view"]
            drawn = [
                sample_view(views.augmentation, views.seed, key, view, width, height).to_json()
                for key, width, height in zip(keys, widths, heights, strict=True)
            ]
            write_sidecar(task, shard, pa.table({"key": keys, "view": drawn}, schema=sidecar.VIEWS))

    return write


run = ShardStage(begin, commit_tasks)

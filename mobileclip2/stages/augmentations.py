"""Draws the parameters of the missing views of every image. Needs the images' sizes alone, not their pixels."""

from __future__ import annotations

import pyarrow as pa

from mobileclip2.data import sidecar as sidefile
from mobileclip2.data.augmentation import sample_view
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, close_parts, raw_table, write_side
from mobileclip2.engine.source_inventory import Shard


def begin(work: TaskBatch) -> WriteShard:
    """Return the function that draws the missing views of a shard."""
    views = work.profile.views

    def write(shard: Shard, parts: list[Task]) -> None:
        raw = raw_table(parts[0].only("raw_shards"), shard)
        keys, widths, heights = (raw.column(name).to_pylist() for name in ("key", "width", "height"))
        for part in parts:
            number = part.part.declared["view"]
            drawn = [
                sample_view(views.augmentation, views.seed, key, number, width, height).to_json()
                for key, width, height in zip(keys, widths, heights, strict=True)
            ]
            write_side(part, shard, pa.table({"key": keys, "view": drawn}, schema=sidefile.VIEWS))

    return write


run = ShardStage(begin, close_parts)

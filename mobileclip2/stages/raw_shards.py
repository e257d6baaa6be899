"""Validates every sample of the source shards. The tars stay where they are; side files say what is good in them."""

from __future__ import annotations

from mobileclip2.data.tar import read_samples
from mobileclip2.data.validate import check_share, validate_shard
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, close_parts, write_side
from mobileclip2.engine.source_inventory import Shard, local_copy


def begin(work: TaskBatch) -> WriteShard:
    """Return the function that validates a shard."""
    (part,) = work.parts

    def write(shard: Shard, parts: list[Task]) -> None:
        with local_copy(shard.url).open("rb") as file:
            validated = validate_shard(read_samples(file, shard.url), work.profile.filters)
        total = validated.table.num_rows + validated.skipped.num_rows
        check_share(validated.skipped, total, work.profile.max_bad_share, shard.url)
        write_side(part, shard, validated.table, validated.skipped)

    return write


run = ShardStage(begin, close_parts)

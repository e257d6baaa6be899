"""List the selected pairs of a group, in the form of ``raw_shards``.

The reasons of the other pairs are in ``selection``. They are not repeated here, so that a group whose pairs stay the same
keeps its data version and nothing after it runs again.
"""

from __future__ import annotations

import pyarrow as pa

from mobileclip2.data import sidecar
from mobileclip2.data.selection import removed_name
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, commit_tasks, raw_table, write_sidecar


def begin(batch: TaskBatch) -> WriteShard:
    """Return the function that lists the selected pairs of a shard."""
    (task,) = batch.tasks
    assert batch.group is not None
    removed: dict[str, set[str]] = {}
    for row in sidecar.read(task.only("selection").fetch(removed_name(batch.group)), sidecar.REMOVED).to_pylist():
        removed.setdefault(row["shard"], set()).add(row["key"])

    def write(shard: Shard, tasks: list[Task]) -> None:
        raw = raw_table(task.only("raw_shards"), shard)
        gone = removed.get(shard.id, set())
        kept = [key not in gone for key in raw.column("key").to_pylist()]
        write_sidecar(task, shard, raw.filter(pa.array(kept, pa.bool_())))

    return write


run = ShardStage(begin, commit_tasks)

"""Validate published reinforced shards. Sidecars list the valid samples and where their images are; no tar is copied."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from mobileclip2.data import sidecar
from mobileclip2.data.tar import read_samples
from mobileclip2.data.validate import check_share
from mobileclip2.data.validate_reinforced import VALID, teachers_of, validate_reinforced
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import Shard, open_shard
from mobileclip2.engine.shard_stage import ShardStage, WriteShard, commit_sidecars, side_name, write_sidecar
from mobileclip2.errors import ShardError
from mobileclip2.stages.image_index import image_index


def begin(batch: TaskBatch) -> WriteShard:
    """Return the function that validates a shard."""
    (task,) = batch.tasks
    source = batch.profile.reinforced_shards(batch.asset.name)
    teachers = {teacher.name: teacher.dim for teacher in source.teachers}
    find_image = None
    if source.images:
        shards = tuple(batch.inventory.image_shards(source.name))
        find_image = image_index(shards, uid=source.images.uid).find

    def write(shard: Shard, tasks: list[Task]) -> None:
        with open_shard(shard) as file:
            valid, skipped = validate_reinforced(
                read_samples(file, shard.url), teachers, batch.profile.filters, shard.url, find_image
            )
        check_share(skipped, valid.num_rows + skipped.num_rows, batch.profile.max_bad_share, shard.url)
        write_sidecar(task, shard, valid, skipped)

    return write


def commit(batch: TaskBatch) -> None:
    """Commit the manifest. Its facts are the teachers' dimensions, and the number of views and captions."""
    (task,) = batch.tasks
    names = [teacher.name for teacher in batch.profile.reinforced_shards(batch.asset.name).teachers]
    tables = [sidecar.read(task.output.fetch(side_name(shard)), VALID) for shard in batch.shards]
    try:
        dims = teachers_of(_distinct(tables, "dims"), names)
    except ValueError as error:
        raise ShardError(f"{batch.asset.key}: {error}; name the shards of one dataset in 'reinforced'") from error
    facts: dict[str, object] = {
        "teachers": names,
        "teacher_dims": dims,
        "views": sorted(_distinct(tables, "views")),
        "captions": _captions(_distinct(tables, "captions")),
    }
    commit_sidecars(task, batch.shards, facts)


def _distinct(tables: list[pa.Table], name: str) -> list[Any]:
    return list({str(value): value for table in tables for value in table.column(name).to_pylist()}.values())


def _captions(counts: list[str]) -> dict[str, list[int]]:
    """Return the least and the greatest number of captions of a sample by field."""
    rows = [json.loads(count) for count in counts]
    fields = sorted({field for row in rows for field in row})
    return {field: [min(row.get(field, 0) for row in rows), max(row.get(field, 0) for row in rows)] for field in fields}


run = ShardStage(begin, commit)

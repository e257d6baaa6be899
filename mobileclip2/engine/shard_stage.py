"""Stages that process one shard at a time: find unfinished shards, compute them, and commit the manifests.

One process can compute all shards, or several processes can share them. Both write the same files.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
from PIL import Image

from mobileclip2.data import sidecar
from mobileclip2.data.image import decode
from mobileclip2.data.validate import check_image, iter_valid
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import Shard, open_shard
from mobileclip2.progress import Step
from mobileclip2.store import Artifact

logger = logging.getLogger(__name__)

SKIPPED = ".skipped.parquet"
"""suffix of the file that lists the skipped samples of a shard"""


def side_name(shard: Shard) -> str:
    """Return the name of a shard's sidecar."""
    return f"{shard.id}.parquet"


def skipped_name(shard: Shard) -> str:
    """Return the name of the file that lists a shard's skipped samples."""
    return shard.id + SKIPPED


WriteShard = Callable[[Shard, list[Task]], None]
"""computes and stores one shard for the given tasks; must write the file that marks the shard as finished last"""


@dataclass(frozen=True)
class ShardStage:
    """A stage whose shards are independent: any process can compute them in any order.

    Calling it computes all shards in this process and commits the manifests.
    """

    begin: Callable[[TaskBatch], WriteShard]
    """loads the model and returns the function that computes a shard; called only if a shard is unfinished"""
    commit: Callable[[TaskBatch], None]
    """writes the manifests of all tasks; loads no model"""
    file_of: Callable[[Shard], str] = side_name
    """name of the file that marks a shard as finished"""

    def __call__(self, batch: TaskBatch) -> None:
        """Compute the unfinished shards and commit the manifests."""
        self.discard_truncated(batch)
        self.compute(batch, batch.shards)
        self.commit(batch)

    def compute(self, batch: TaskBatch, shards: list[Shard]) -> None:
        """Compute the unfinished shards of the given list. Do not write a manifest."""
        write_shard: WriteShard | None = None
        for number, shard in enumerate(shards):
            todo = [task for task in batch.tasks if not task.output.has(self.file_of(shard))]
            if todo:
                write_shard = write_shard or self.begin(batch)
                write_shard(shard, todo)
            batch.progress(Step(number + 1, len(shards), "shards"))

    def unfinished(self, batch: TaskBatch) -> list[Shard]:
        """List the store and return the shards that at least one task has not finished."""
        stored = [task.output.names() for task in batch.tasks]
        return [shard for shard in batch.shards if any(self.file_of(shard) not in names for names in stored)]

    def discard_truncated(self, batch: TaskBatch) -> None:
        """Delete truncated and damaged files of a killed run, so that their shards are recomputed.

        Call this before :meth:`compute`, which keeps every file that exists.
        """
        for output in (task.output for task in batch.tasks):
            names = output.names()
            for shard in batch.shards:
                stored = [name for name in (self.file_of(shard), skipped_name(shard)) if name in names]
                if damaged := [name for name in stored if not output.is_intact(name)]:
                    url = f"{output.storage.url}/{output.key(damaged[0])}"
                    logger.warning("%s: truncated or damaged; its shard is recomputed", url)
                    for name in stored:
                        output.delete(name)


def write_sidecar(task: Task, shard: Shard, table: pa.Table, skipped: pa.Table | None = None) -> None:
    """Write the sidecar of a shard. Write the list of skipped samples first, if there are any."""
    if skipped is not None and skipped.num_rows:
        task.output.write(skipped_name(shard), sidecar.to_bytes(skipped))
    task.output.write(side_name(shard), sidecar.to_bytes(table))


def commit_tasks(batch: TaskBatch) -> None:
    """Commit every task over its sidecars."""
    for task in batch.tasks:
        commit_sidecars(task, batch.shards)


def commit_sidecars(task: Task, shards: Sequence[Shard], facts: dict[str, object] | None = None) -> None:
    """Write the manifest over the sidecars of all shards. Count samples and skips in the files."""
    samples = sum(sidecar.rows(task.output.fetch(side_name(shard))) for shard in shards)
    names, reasons = skips(task, shards)
    task.commit([*map(side_name, shards), *names], samples=samples, skip_reasons=reasons, facts=facts)


def skips(task: Task, shards: Sequence[Shard]) -> tuple[list[str], Counter[str]]:
    """Return the stored lists of skipped samples of all shards, and the number of their samples by reason."""
    names = [name for name in map(skipped_name, shards) if task.output.has(name)]
    tables = (sidecar.read(task.output.fetch(name)) for name in names)
    return names, Counter(reason for table in tables for reason in table.column("reason").to_pylist())


def images_of(shard: Shard, raw: pa.Table) -> Iterator[tuple[str, Image.Image]]:
    """Yield the key and decoded image of every valid sample of a shard, in the order of its sidecar."""
    for key, data in encoded_images(shard, raw):
        yield key, decode(data)


def encoded_images(shard: Shard, raw: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Yield the key and encoded image of every valid sample of a shard, in the order of its sidecar.

    Raises:
        ShardError: the shard changed after its validation or after the plan.
    """
    rows = raw.select(["key", "image", "sha256"]).to_pylist()
    with open_shard(shard) as file:
        valid = iter_valid(file, shard.url, [row["key"] for row in rows])
        for (key, members), row in zip(valid, rows, strict=True):
            yield key, check_image(members.get(row["image"], b""), row, shard.url)


def raw_table(raw: Artifact, shard: Shard) -> pa.Table:
    """Read the table of a shard's validated samples."""
    return sidecar.read(raw.fetch(side_name(shard)))

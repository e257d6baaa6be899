"""What the stages that work shard by shard share: what is left to do, and closing the manifest over the shards.

Such a stage is a :class:`ShardStage`. One process may do it whole, or several may each do some of its shards and one of them
close it: the files are the same.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import pyarrow as pa
from PIL import Image

from mobileclip2.data import sidecar as sidefile
from mobileclip2.data.image import decode
from mobileclip2.data.validate import iter_valid
from mobileclip2.engine.pipeline import Artifact, Task, TaskBatch
from mobileclip2.engine.source_inventory import Shard, local_copy
from mobileclip2.errors import ShardError
from mobileclip2.progress import Step

logger = logging.getLogger(__name__)


SKIPPED = ".skipped.parquet"
"""end of the name of a file with the samples that were left out"""


def side_name(shard: Shard) -> str:
    """Return the name of a shard's side file."""
    return f"{shard.id}.parquet"


def skipped_name(shard: Shard) -> str:
    """Return the name of the file that lists a shard's skipped samples."""
    return shard.id + SKIPPED


WriteShard = Callable[[Shard, list[Task]], None]
"""Computes and stores what the given parts lack of a shard. The file that marks the shard as finished comes last."""


@dataclass(frozen=True)
class ShardStage:
    """A stage whose shards are computed each for itself, in any order and by any process, and then closed together.

    Called, it does all of that here.
    """

    begin: Callable[[TaskBatch], WriteShard]
    """loads what every shard needs; called only where there is a shard to compute"""
    close: Callable[[TaskBatch], None]
    """writes the manifests over the files of all shards; loads no model"""
    file_of: Callable[[Shard], str] = side_name
    """name of the file that marks a shard as finished"""

    def __call__(self, work: TaskBatch) -> None:
        """Compute the missing shards and close the manifests."""
        self.mend(work)
        self.compute(work, work.shards)
        self.close(work)

    def compute(self, work: TaskBatch, shards: list[Shard]) -> None:
        """Compute the missing ones of the given shards, without a manifest."""
        write: WriteShard | None = None
        for number, shard in enumerate(shards):
            todo = [part for part in work.parts if not part.output.has(self.file_of(shard))]
            if todo:
                write = write or self.begin(work)
                write(shard, todo)
            work.progress(Step(number + 1, len(shards), "shards"))

    def unfinished(self, work: TaskBatch) -> list[Shard]:
        """Shards that some part lacks, seen by listing the store."""
        stored = [part.output.names() for part in work.parts]
        return [shard for shard in work.shards if any(self.file_of(shard) not in names for names in stored)]

    def mend(self, work: TaskBatch) -> None:
        """Delete stored files that were cut off later, so that they are recomputed.

        Whoever goes on at what is there does this first: before a manifest nothing else tells that a file is not whole.
        """
        for part in work.parts:
            names = part.output.names()
            for shard in work.shards:
                stored = [name for name in (self.file_of(shard), skipped_name(shard)) if name in names]
                cut = [name for name in stored if not part.output.storage.is_whole(part.output.key(name))]
                if cut:
                    logger.warning("%s/%s: cut off; computed anew", part.output.storage.url, part.output.key(cut[0]))
                    for name in stored:
                        part.output.delete(name)


def write_side(part: Task, shard: Shard, table: pa.Table, skipped: pa.Table | None = None) -> None:
    """Write the side file of a shard, after the list of skipped samples if there are any."""
    if skipped is not None and skipped.num_rows:
        part.output.write(skipped_name(shard), sidefile.to_bytes(skipped))
    part.output.write(side_name(shard), sidefile.to_bytes(table))


def close_parts(work: TaskBatch) -> None:
    """Close every part over its side files."""
    for part in work.parts:
        close_shards(part, work.shards)


def close_shards(part: Task, shards: Iterable[Shard], facts: dict[str, object] | None = None) -> None:
    """Close the manifest over the side files of all shards. Count samples and skips in the files themselves."""
    names, samples, reasons = [], 0, Counter[str]()
    for shard in shards:
        names.append(side_name(shard))
        samples += sidefile.rows(part.output.fetch(side_name(shard)))
        if part.output.has(skipped_name(shard)):
            names.append(skipped_name(shard))
            skipped = sidefile.read(part.output.fetch(skipped_name(shard)))
            reasons.update(skipped.column("reason").to_pylist())
    part.close(names, samples=samples, skip_reasons=dict(reasons), facts=facts)


def images_of(shard: Shard, raw: pa.Table) -> Iterator[tuple[str, Image.Image]]:
    """Key and decoded image of every kept sample of a shard, in the order of its side file."""
    for key, data in encoded_images(shard, raw):
        yield key, decode(data)


def encoded_images(shard: Shard, raw: pa.Table) -> Iterator[tuple[str, bytes]]:
    """Key and image file of every kept sample of a shard, in the order of its side file."""
    keys = raw.column("key").to_pylist()
    members = raw.column("image").to_pylist()
    with local_copy(shard.url).open("rb") as file:
        for (key, found), member in zip(iter_valid(file, shard.url, keys), members, strict=True):
            if member not in found:
                raise ShardError(
                    f"{shard.url}: sample '{key}' lost its '{member}' since it was validated; run raw_shards again"
                )
            yield key, found[member]


def raw_table(raw: Artifact, shard: Shard) -> pa.Table:
    """Read the table of a shard's validated samples."""
    return sidefile.read(raw.fetch(side_name(shard)))

"""What the stages that work shard by shard share: what is left to do, and closing the manifest over the shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import pyarrow as pa
from PIL import Image

from mobileclip2 import sidefile
from mobileclip2.contents import Shard, local_copy
from mobileclip2.errors import ShardError
from mobileclip2.pipeline import PartWork, Read, Work
from mobileclip2.progress import Step
from mobileclip2.shards.image import decode
from mobileclip2.shards.validate import iter_valid


def side_name(shard: Shard) -> str:
    return f"{shard.id}.parquet"


def skipped_name(shard: Shard) -> str:
    return f"{shard.id}.skipped.parquet"


def each_shard(
    work: Work, write: Callable[[Shard, list[PartWork]], None], file_of: Callable[[Shard], str] = side_name
) -> None:
    """Calls ``write`` for every shard with the parts whose ``file_of(shard)`` is not there yet.

    The file marks its shard as finished, so ``write`` puts it in place last.
    """
    shards = work.shards
    for number, shard in enumerate(shards):
        todo = [part for part in work.parts if not part.output.has(file_of(shard))]
        if todo:
            write(shard, todo)
        work.progress(Step(number + 1, len(shards), "shards"))


def write_side(part: PartWork, shard: Shard, table: pa.Table, skipped: pa.Table | None = None) -> None:
    if skipped is not None and skipped.num_rows:
        part.output.write(skipped_name(shard), sidefile.to_bytes(skipped))
    part.output.write(side_name(shard), sidefile.to_bytes(table))


def close_shards(part: PartWork, shards: Iterable[Shard], facts: dict[str, object] | None = None) -> None:
    """Closes the manifest over the side files of all shards, counting samples and skips in the files themselves."""
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
    keys = raw.column("key").to_pylist()
    members = raw.column("image").to_pylist()
    with local_copy(shard.url).open("rb") as file:
        for (key, found), member in zip(iter_valid(file, shard.url, keys), members, strict=True):
            if member not in found:
                raise ShardError(
                    f"{shard.url}: sample '{key}' lost its '{member}' since it was validated; run raw_shards again"
                )
            yield key, decode(found[member])


def raw_table(raw: Read, shard: Shard) -> pa.Table:
    return sidefile.read(raw.fetch(side_name(shard)))

"""What the stages that train share: reading samples over all shards, and publishing what training wrote."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mobileclip2.engine.lineage import LINEAGE
from mobileclip2.engine.pipeline import Artifact, TaskBatch
from mobileclip2.engine.shard_stage import SKIPPED, raw_table, side_name
from mobileclip2.engine.source_inventory import Shard, SourceInventory
from mobileclip2.engine.trace import lineage
from mobileclip2.errors import ShardError
from mobileclip2.models.image_text import ImageText
from mobileclip2.store.storage import explain
from mobileclip2.training.trainer import METRICS, TrainResult


def shards_of(read: Artifact, contents: SourceInventory, file_of: Callable[[Shard], str] = side_name) -> list[Shard]:
    """Return the tars behind a finished ``raw_shards`` or ``reinforced_dataset`` group or a caption corpus.

    Tars that were added to the source later are left out.

    A tar that came to the source since then is none of them.

    Args:
        file_of: name of the file that was stored for a shard.

    Raises:
        ShardError: one of them is no longer there.
    """
    if read.group is not None:
        shards = contents.group_shards(read.group)
    else:
        shards = contents.corpus_shards(read.manifest.asset.partition("/")[2])
    stored = {file.name for file in read.manifest.files if not file.name.endswith(SKIPPED)}
    if gone := stored.difference(map(file_of, shards)):
        place = f"{read.head.asset}{f' [{read.group}]' if read.group else ''}"
        raise ShardError(f"{place}: the source has no shard any more for '{min(gone)}'; put it back, or plan again")
    return [shard for shard in shards if file_of(shard) in stored]


def tables_of(reads: list[Artifact], contents: SourceInventory) -> Iterator[tuple[Shard, pa.Table]]:
    """Every shard that has validated samples, with them.

    Raises:
        ShardError: no shard has any.
    """
    some = False
    for read in reads:
        for shard in shards_of(read, contents):
            table = raw_table(read, shard)
            if table.num_rows:
                some = True
                yield shard, table
    if not some:
        raise ShardError(
            f"{', '.join(dict.fromkeys(read.head.asset for read in reads))}: no shard holds a good sample to learn from; "
            "see its skipped samples, and 'sources' and 'filters' in the profile"
        )


def size(image_text: ImageText) -> dict[str, int]:
    """Return what every student's manifest says of its size."""
    parameters = sum(parameter.numel() for parameter in image_text.model.parameters())
    return {"embed_dim": image_text.embed_dim, "parameters": parameters}


def publish(
    work: TaskBatch, result: TrainResult | None, save: Callable[[Path], None], files: list[str], facts: dict[str, Any]
) -> None:
    """Store the files that ``save`` writes into the scratch folder, with the metrics of training, and clear the folder.

    Of several processes that trained together the first one does it; the others must leave the folder alone, which may
    be gone by then.
    """
    if int(os.environ.get("RANK", "0")):
        return
    (part,) = work.parts
    try:
        save(work.scratch)
    except OSError as error:
        explain(error, str(work.scratch))
    names = [*files, *([METRICS] if result else [])]
    for name in names:
        part.output.put(name, work.scratch / name)
    part.output.write(LINEAGE, (work.lineage or lineage(work.pipeline, [part])).to_bytes())
    part.close(names, samples=facts.get("samples", 0), facts=facts)
    work.kept.clear()

"""What the stages that train share: reading samples over all shards, and publishing what training wrote."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mobileclip2.contents import Contents, Shard
from mobileclip2.pipeline import PartWork, Read, Work
from mobileclip2.stages.by_shard import raw_table
from mobileclip2.store import Manifest
from mobileclip2.training.trainer import METRICS, TrainResult


def shards_of(read: Read, contents: Contents) -> list[Shard]:
    """The tars behind a finished ``raw_shards`` group or caption corpus."""
    if read.group is not None:
        return contents.group_shards(read.group)
    return contents.corpus_shards(read.manifest.asset.partition("/")[2])


def tables_of(reads: list[Read], contents: Contents) -> Iterator[tuple[Shard, pa.Table]]:
    """Every shard with its validated samples."""
    for read in reads:
        for shard in shards_of(read, contents):
            yield shard, raw_table(read, shard)


def publish(work: Work, result: TrainResult, files: dict[str, Path], facts: dict[str, Any]) -> Manifest:
    """Stores the trained files with the metrics of training, then clears the scratch folder."""
    (part,) = work.parts
    stored = {METRICS: result.metrics, **files} if result else files
    for name, path in stored.items():
        part.output.put(name, path)
    manifest = part.close(list(stored), samples=facts.get("samples", 0), facts=facts)
    shutil.rmtree(work.scratch)
    return manifest


def samples_seen(part: PartWork, settings: Any) -> int:
    return int(settings.total_steps * settings.batch)

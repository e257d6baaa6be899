"""Read training samples from all shards, and publish the files of a trained model."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from mobileclip2.asset_key import Partition
from mobileclip2.engine.lineage import LINEAGE
from mobileclip2.engine.pipeline import Artifact, TaskBatch
from mobileclip2.engine.shard_stage import SKIPPED, raw_table, side_name
from mobileclip2.engine.source_inventory import Shard, SourceInventory
from mobileclip2.engine.trace import lineage
from mobileclip2.errors import ShardError
from mobileclip2.models.image_text import ImageText
from mobileclip2.store.storage import explain
from mobileclip2.training.trainer import METRICS, TrainResult


def shards_of(
    artifact: Artifact, contents: SourceInventory, file_of: Callable[[Shard], str] = side_name
) -> list[Shard]:
    """Return the source tars of a finished ``raw_shards`` or ``reinforced_dataset`` group or a caption corpus.

    Tars that were added to the source later are left out.

    Args:
        file_of: returns the name of the stored file of a shard.

    Raises:
        ShardError: a tar no longer exists.
    """
    if artifact.group is not None:
        shards = contents.group_shards(artifact.group)
    else:
        shards = contents.corpus_shards(artifact.head.asset.name)
    stored = {file.name for file in artifact.manifest.files if not file.name.endswith(SKIPPED)}
    if gone := stored.difference(map(file_of, shards)):
        partition = Partition(artifact.head.asset, artifact.group)
        raise ShardError(f"{partition}: the source no longer has the shard of '{min(gone)}'; restore it, or plan again")
    return [shard for shard in shards if file_of(shard) in stored]


def tables_of(artifacts: list[Artifact], contents: SourceInventory) -> Iterator[tuple[Shard, pa.Table]]:
    """Yield every shard with valid samples and its table of samples.

    Raises:
        ShardError: no shard has a valid sample.
    """
    found = False
    for artifact in artifacts:
        for shard in shards_of(artifact, contents):
            table = raw_table(artifact, shard)
            if table.num_rows:
                found = True
                yield shard, table
    if not found:
        assets = dict.fromkeys(artifact.head.asset for artifact in artifacts)
        raise ShardError(
            f"{', '.join(assets)}: no shard has a valid sample to train on; "
            "check its skipped samples, and 'sources' and 'filters' in the profile"
        )


def size(image_text: ImageText) -> dict[str, int]:
    """Return the embedding dimension and the number of parameters, for the facts of a manifest."""
    parameters = sum(parameter.numel() for parameter in image_text.model.parameters())
    return {"embed_dim": image_text.embed_dim, "parameters": parameters}


def publish(
    batch: TaskBatch, result: TrainResult | None, save: Callable[[Path], None], files: list[str], facts: dict[str, Any]
) -> None:
    """Store the files that ``save`` writes to the scratch folder, with training metrics and lineage, and commit the manifest.

    Only rank 0 publishes. It then deletes the scratch folder, so other ranks must not access it.
    """
    if int(os.environ.get("RANK", "0")):
        return
    (task,) = batch.tasks
    try:
        save(batch.scratch)
    except OSError as error:
        explain(error, str(batch.scratch))
    names = [*files, *([METRICS] if result else [])]
    for name in names:
        task.output.put(name, batch.scratch / name)
    task.output.write(LINEAGE, (batch.lineage or lineage(batch.pipeline, [task])).to_bytes())
    task.commit(names, samples=facts.get("samples", 0), facts=facts)
    batch.scratch_store.clear()

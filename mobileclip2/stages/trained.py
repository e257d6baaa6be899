"""Train a model on the samples of all shards, and publish its files."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from torch import nn

from mobileclip2.asset_key import Partition
from mobileclip2.config.training import TrainSettings
from mobileclip2.engine.lineage import LINEAGE
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.shard import Shard, local_copy
from mobileclip2.engine.shard_stage import SKIPPED, raw_table, side_name
from mobileclip2.engine.source_inventory import SourceInventory
from mobileclip2.engine.trace import lineage
from mobileclip2.errors import ShardError
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.sealed_tensors import DamagedTensors, read_sealed, write_sealed
from mobileclip2.progress import Step
from mobileclip2.stages.reinforced_dataset import tar_name
from mobileclip2.store import Artifact
from mobileclip2.store.storage import explained
from mobileclip2.training.data import SampleSource
from mobileclip2.training.objectives import Objective
from mobileclip2.training.trainer import METRICS, Numbers, train

logger = logging.getLogger(__name__)


def shards_of(
    artifact: Artifact, inventory: SourceInventory, file_of: Callable[[Shard], str] = side_name
) -> list[Shard]:
    """Return the source tars of a finished ``raw_shards`` or ``reinforced_dataset`` group or a caption corpus.

    Tars that were added to the source later are left out. ``file_of`` returns the name of the stored file of a shard.

    Raises:
        ShardError: a tar no longer exists.
    """
    shards = inventory.shards_of(artifact.summary.asset, artifact.summary.group)
    stored = {file.name for file in artifact.manifest.files if not file.name.endswith(SKIPPED)}
    if gone := stored.difference(map(file_of, shards)):
        partition = Partition(artifact.summary.asset, artifact.summary.group)
        raise ShardError(f"{partition}: the source no longer has the shard of '{min(gone)}'; restore it, or plan again")
    return [shard for shard in shards if file_of(shard) in stored]


def tars_of(artifacts: list[Artifact], inventory: SourceInventory) -> tuple[list[Path], list[Path] | None]:
    """Return the DR tars of finished groups, and the source tars with their images if the DR tars have none."""
    found = [(artifact, shard) for artifact in artifacts for shard in shards_of(artifact, inventory, tar_name)]
    tars = [artifact.fetch(tar_name(shard)) for artifact, shard in found]
    if inventory.profile.dataset.images:
        return tars, None
    return tars, [local_copy(shard.url, shard.version_token) for _, shard in found]


def tables_of(artifacts: list[Artifact], inventory: SourceInventory) -> Iterator[tuple[Shard, pa.Table]]:
    """Yield every shard with valid samples and its table of samples.

    Raises:
        ShardError: no shard has a valid sample.
    """
    found = False
    for artifact in artifacts:
        for shard in shards_of(artifact, inventory):
            table = raw_table(artifact, shard)
            if table.num_rows:
                found = True
                yield shard, table
    if not found:
        assets = dict.fromkeys(artifact.summary.asset for artifact in artifacts)
        raise ShardError(
            f"{', '.join(assets)}: no shard has a valid sample to train on; "
            "check its skipped samples, and 'sources' and 'filters' in the profile"
        )


def frozen_features(
    batch: TaskBatch,
    tables: Sequence[tuple[Shard, pa.Table]],
    compute: Callable[[Shard, pa.Table], dict[str, torch.Tensor]],
) -> dict[str, torch.Tensor]:
    """Return features of the samples of all shards, by name. The features of a shard are cached until the training ends."""
    features = []
    for number, (shard, table) in enumerate(tables):
        # by number, because shards of different corpora can have the same name
        path = batch.scratch / "features" / f"{number:06d}.safetensors"
        cached = _cached_features(path, shard)
        if cached is None:
            cached = compute(shard, table)
            write_sealed(path, cached, {"shard": shard.id})
        features.append(cached)
        batch.progress(Step(number + 1, len(tables), "shards of frozen features"))
    return {name: torch.cat([each[name] for each in features]) for name in features[0]}


def _cached_features(path: Path, shard: Shard) -> dict[str, torch.Tensor] | None:
    """Return the cached features of a shard, or None if there are none. A damaged file counts as none."""
    if not path.exists():
        return None
    try:
        features, metadata = read_sealed(path)
    except DamagedTensors as error:
        logger.warning("%s; its features are recomputed", error)
        return None
    if (stored := metadata.get("shard")) != shard.id:
        logger.warning("%s: belongs to the shard %s, not %s; its features are recomputed", path, stored, shard.id)
        return None
    return features


def train_task(
    batch: TaskBatch,
    model: nn.Module,
    objective: Objective,
    source: SampleSource,
    settings: TrainSettings,
    device: torch.device,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
) -> Numbers:
    """Train the model of a batch. A killed training continues from its last checkpoint."""
    (task,) = batch.tasks
    return train(
        model,
        objective,
        source,
        settings,
        batch.scratch,
        device=device,
        fingerprint=task.fingerprint,
        evaluate=evaluate,
        progress=batch.progress,
        upload=batch.scratch_store.save,
        timeout=timedelta(minutes=batch.profile.compute.collective_minutes),
    )


def size(image_text: ImageText) -> dict[str, int]:
    """Return the embedding dimension and the number of parameters, for the facts of a manifest."""
    parameters = sum(parameter.numel() for parameter in image_text.model.parameters())
    return {"embed_dim": image_text.embed_dim, "parameters": parameters}


def publish(
    batch: TaskBatch, result: Numbers | None, save: Callable[[Path], None], files: list[str], facts: dict[str, Any]
) -> None:
    """Store the files that ``save`` writes to the scratch folder, with training metrics and lineage, and commit the manifest.

    Only rank 0 publishes. It then deletes the scratch folder, so other ranks must not access it.
    """
    if int(os.environ.get("RANK", "0")):
        return
    (task,) = batch.tasks
    with explained(batch.scratch):
        save(batch.scratch)
    names = [*files, *([METRICS] if result is not None else [])]
    for name in names:
        task.output.put(name, batch.scratch / name)
    task.output.write(LINEAGE, (batch.lineage or lineage(batch.pipeline, [task])).to_bytes())
    task.commit(names, samples=facts.get("samples", 0), facts=facts)
    batch.scratch_store.clear()

"""Make a teacher: load pretrained weights, or train the projections of a locked-image teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch
from safetensors.torch import load_file

from mobileclip2.config.teacher import Locked
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.source_inventory import Shard
from mobileclip2.models.batched import each_text_once
from mobileclip2.models.build import build, save, stored_files
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import write_tensors
from mobileclip2.progress import Step
from mobileclip2.stages.prefetch import preprocessed_images
from mobileclip2.stages.trained import publish, tables_of
from mobileclip2.teachers.hub_towers import download_towers
from mobileclip2.teachers.locked import (
    PROJECTIONS,
    SPEC,
    Projections,
    build_locked,
    image_trunk_features,
    save_projections,
    text_trunk_features,
)
from mobileclip2.training.data import FeatureSource
from mobileclip2.training.objectives import Contrastive
from mobileclip2.training.trainer import train


def run(batch: TaskBatch) -> None:
    """Store the pretrained teacher, or train a locked-image teacher."""
    teacher = batch.profile.teacher(batch.asset.name)
    if teacher.locked:
        train_locked(batch, teacher.locked)
        return
    assert teacher.model is not None
    image_text = build(
        teacher.model,
        batch.contents.model_weights(teacher.model),
        commits=batch.contents.model_commits(teacher.model),
    )
    facts = {"embed_dim": image_text.embed_dim, **image_text.provenance}
    publish(batch, None, partial(save, image_text), stored_files(image_text), facts)


def train_locked(batch: TaskBatch, spec: Locked) -> None:
    """Train projections on the features of frozen towers (LiT, arXiv:2111.07991). Features are cached per shard."""
    (task,) = batch.tasks
    batch.scratch_store.recall()
    device = choose_device(batch.profile.device)
    towers = download_towers(spec, *batch.contents.tower_weights(spec))
    locked = build_locked(spec, towers.trunk, towers.text, seed=spec.train.seed)
    projections = Projections(locked.model)
    locked.model.to(device)
    shards = list(tables_of([artifact for artifacts in task.inputs.values() for artifact in artifacts], batch.contents))
    images, texts = [], []
    for number, (shard, table) in enumerate(shards):
        # by number, because shards of different corpora can have the same name
        cached = batch.scratch / "features" / f"{number:06d}.safetensors"
        features = shard_features(locked, shard, table, cached, device, batch.profile.batch)
        images.append(features["image"])
        texts.append(features["text"])
        batch.progress(Step(number + 1, len(shards), "shards of frozen features"))
    source = FeatureSource(torch.cat(images), torch.cat(texts), seed=spec.train.seed)
    result = train(
        projections,
        Contrastive(),
        source,
        spec.train,
        batch.scratch,
        device=device,
        fingerprint=task.fingerprint,
        progress=batch.progress,
        upload=batch.scratch_store.keep,
    )
    facts: dict[str, Any] = {"embed_dim": locked.embed_dim, "samples": sum(table.num_rows for _, table in shards)}
    if towers.commits:
        facts["commits"] = towers.commits
    save_teacher = partial(save_projections, projections, spec, towers.stored)
    publish(batch, result, save_teacher, [SPEC, PROJECTIONS, *towers.stored], facts)


def shard_features(
    locked: ImageText, shard: Shard, table: pa.Table, cached: Path, device: torch.device, batch_size: int
) -> dict[str, torch.Tensor]:
    """Return the features ``image [n, F]`` and ``text [n, G]`` of one shard. ``cached`` is the file that caches them."""
    if not cached.exists():
        images = preprocessed_images(shard, table, locked.preprocess, batch_size, device)
        features = {
            "image": torch.cat([image_trunk_features(locked, pixels).cpu() for pixels in images]),
            "text": each_text_once(
                partial(text_trunk_features, locked), table.column("caption").to_pylist(), batch_size
            ),
        }
        write_tensors(cached, features)
    return load_file(cached)

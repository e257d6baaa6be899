"""Make a teacher: load pretrained weights, or train the projections of a locked-image teacher."""

from __future__ import annotations

from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import torch

from mobileclip2.config.teacher import Locked
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.shard import Shard
from mobileclip2.models.batched import each_text_once
from mobileclip2.models.build import save, stored_files
from mobileclip2.models.device import choose_device
from mobileclip2.stages.load_model import build_image_text
from mobileclip2.stages.prefetch import preprocessed_images
from mobileclip2.stages.trained import frozen_features, publish, tables_of, train_task
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


def run(batch: TaskBatch) -> None:
    """Store the pretrained teacher, or train a locked-image teacher."""
    teacher = batch.profile.teacher(batch.asset.name)
    if teacher.locked:
        train_locked(batch, teacher.locked)
        return
    image_text = build_image_text(teacher.model, batch.inventory)
    facts = {"embed_dim": image_text.embed_dim, **image_text.provenance}
    publish(batch, None, partial(save, image_text), stored_files(image_text), facts)


def train_locked(batch: TaskBatch, spec: Locked) -> None:
    """Train projections on the features of frozen towers (LiT, arXiv:2111.07991)."""
    (task,) = batch.tasks
    device = choose_device(batch.profile.device)
    towers = download_towers(spec, *batch.inventory.tower_weights(spec))
    locked = build_locked(spec, towers.trunk, towers.text, seed=spec.train.seed)
    projections = Projections(locked.model, spec.dropout or 0.0)
    locked.model.to(device)

    def features(shard: Shard, table: pa.Table) -> dict[str, torch.Tensor]:
        """Return the features ``image [n, F]`` and ``text [n, G]`` of one shard."""
        images = preprocessed_images(shard, table, locked.preprocess, batch.profile.batch, device)
        texts = table.column("caption").to_pylist()
        return {
            "image": torch.cat([image_trunk_features(locked, pixels).cpu() for pixels in images]),
            "text": each_text_once(partial(text_trunk_features, locked), texts, batch.profile.batch),
        }

    shards = list(tables_of(list(chain(*task.inputs.values())), batch.inventory))
    frozen = frozen_features(batch, shards, features)
    source = FeatureSource(frozen["image"], frozen["text"], seed=spec.train.seed)
    result = train_task(batch, projections, Contrastive(), source, spec.train, device)
    facts: dict[str, Any] = {"embed_dim": locked.embed_dim, "samples": sum(table.num_rows for _, table in shards)}
    if towers.commits:
        facts["commits"] = towers.commits
    save_teacher = partial(save_projections, projections, spec, towers.stored)
    publish(batch, result, save_teacher, [SPEC, PROJECTIONS, *towers.stored], facts)

"""Makes a teacher ready: fetches and pins given weights, or trains the projections of a locked-image teacher."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import load_file

from mobileclip2.config.profile import Locked
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.source_inventory import Shard
from mobileclip2.models.batched import each_text_once
from mobileclip2.models.build import CONFIG, WEIGHTS, build, save
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import write_tensors
from mobileclip2.progress import Step
from mobileclip2.stages.prefetch import whole_images
from mobileclip2.stages.trained import publish, tables_of
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


def run(work: TaskBatch) -> None:
    """Store the given weights of the teacher, or train a locked-image teacher."""
    teacher = work.profile.teacher(work.asset.name)
    if teacher.locked:
        train_locked(work, teacher.locked)
        return
    assert teacher.model is not None
    image_text = build(teacher.model, work.contents.model_weights(teacher.model))
    publish(work, None, partial(save, image_text), [CONFIG, WEIGHTS], {"embed_dim": image_text.embed_dim})


def train_locked(work: TaskBatch, spec: Locked) -> None:
    """LiT on the features of the frozen towers; features are kept by shard until training is done."""
    (part,) = work.parts
    work.kept.recall()
    device = choose_device(work.profile.device)
    locked = build_locked(spec, *work.contents.tower_weights(spec), seed=spec.train.seed)
    projections = Projections(locked.model)
    locked.model.to(device)
    shards = list(tables_of([read for reads in part.inputs.values() for read in reads], work.contents))
    images, texts = [], []
    for number, (shard, table) in enumerate(shards):
        # by number, because corpora have shards of one name
        kept = work.scratch / "features" / f"{number:06d}.safetensors"
        features = shard_features(locked, shard, table, kept, device, work.profile.batch)
        images.append(features["image"])
        texts.append(features["text"])
        work.progress(Step(number + 1, len(shards), "shards of frozen features"))
    source = FeatureSource(torch.cat(images), torch.cat(texts), seed=spec.train.seed)
    result = train(
        projections,
        Contrastive(),
        source,
        spec.train,
        work.scratch,
        device=device,
        fingerprint=part.fingerprint,
        progress=work.progress,
        upload=work.kept.keep,
    )
    facts = {"embed_dim": locked.embed_dim, "samples": sum(table.num_rows for _, table in shards)}
    publish(work, result, partial(save_projections, projections, spec), [SPEC, PROJECTIONS], facts)


def shard_features(
    locked: ImageText, shard: Shard, table: pa.Table, kept: Path, device: torch.device, batch: int
) -> dict[str, torch.Tensor]:
    """``image [n, F]`` and ``text [n, G]`` of one shard from the frozen towers, from the file ``kept`` if it is there."""
    if not kept.exists():
        images = whole_images(shard, table, locked.preprocess, batch, device)
        features = {
            "image": torch.cat([image_trunk_features(locked, some).cpu() for some in images]),
            "text": each_text_once(partial(text_trunk_features, locked), table.column("caption").to_pylist(), batch),
        }
        write_tensors(kept, features)
    return load_file(kept)

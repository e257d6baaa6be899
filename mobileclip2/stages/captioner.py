"""Train a CoCa captioner from random weights, published weights or an earlier captioner."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pyarrow as pa
import torch
from safetensors.torch import load_file

from mobileclip2.captioners.coca import trunk_features
from mobileclip2.captioners.load import SMALL, build_captioner, load_captioner, save_captioner
from mobileclip2.config.training import TrainSettings
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.source_inventory import Shard, local_copy
from mobileclip2.models.build import CONFIG, WEIGHTS, stored_files
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import write_tensors
from mobileclip2.progress import Step
from mobileclip2.stages.prefetch import preprocessed_images
from mobileclip2.stages.trained import publish, tables_of
from mobileclip2.training.data import FeatureSource, RawSource, SampleSource
from mobileclip2.training.objectives import CoCaObjective
from mobileclip2.training.trainer import train


def run(batch: TaskBatch) -> None:
    """Train the captioner, or load its pretrained weights, and store it."""
    (task,) = batch.tasks
    batch.scratch_store.recall()
    config = batch.profile.captioner(batch.asset.name)
    settings = config.train
    device = choose_device(batch.profile.device)
    if config.base:
        base = task.only("base")
        captioner = load_captioner(base.fetch(CONFIG), base.fetch(WEIGHTS))
    else:
        weights = batch.contents.captioner_weights(config)
        commits = batch.contents.model_commits(config.model) if config.model else {}
        captioner = build_captioner(config, weights, commits=commits, seed=settings.seed if settings else 0)
    captioner.model.to(device)
    result = None
    if settings:
        result = train(
            captioner.model,
            CoCaObjective(),
            training_source(batch, task, captioner, settings, device),
            settings,
            batch.scratch,
            device=device,
            fingerprint=task.fingerprint,
            progress=batch.progress,
            upload=batch.scratch_store.keep,
        )
    samples = settings.total_steps * settings.batch if settings else 0
    facts = {"embed_dim": captioner.embed_dim, **captioner.provenance, "samples": samples}
    publish(batch, result, partial(save_captioner, captioner), stored_files(captioner), facts)


def training_source(
    batch: TaskBatch, task: Task, captioner: ImageText, settings: TrainSettings, device: torch.device
) -> SampleSource:
    """Return the training samples: images, or for a small captioner the features of its frozen trunk."""
    tables = tables_of(task.inputs["data"], batch.contents)
    if SMALL not in captioner.config:
        return RawSource(
            ((local_copy(shard.url), table) for shard, table in tables),
            captioner.tokenize,
            captioner.preprocess,
            seed=settings.seed,
        )
    shards = list(tables)
    features, texts = [], []
    for number, (shard, table) in enumerate(shards):
        features.append(shard_features(captioner, shard, table, batch.scratch, device, batch.profile.batch))
        texts += table.column("caption").to_pylist()
        batch.progress(Step(number + 1, len(shards), "shards of frozen features"))
    return FeatureSource(torch.cat(features), captioner.tokenize(texts), seed=settings.seed)


def shard_features(
    captioner: ImageText, shard: Shard, table: pa.Table, scratch: Path, device: torch.device, batch_size: int
) -> torch.Tensor:
    """Return the trunk features ``[n, C]`` of one shard. They are cached until the training ends."""
    cached = scratch / "features" / f"{shard.id}.safetensors"
    if not cached.exists():
        images = preprocessed_images(shard, table, captioner.preprocess, batch_size, device)
        features = torch.cat([trunk_features(captioner.model, pixels).cpu() for pixels in images])
        write_tensors(cached, {"features": features})
    return load_file(cached)["features"]

"""Train a CoCa captioner from random weights, published weights or an earlier captioner."""

from __future__ import annotations

from functools import partial

import pyarrow as pa
import torch

from mobileclip2.captioners.coca import trunk_features
from mobileclip2.captioners.load import SMALL, build_captioner, load_captioner
from mobileclip2.config.training import TrainSettings
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.shard import Shard, local_copy
from mobileclip2.models.build import CONFIG, WEIGHTS, save, stored_files
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages.prefetch import preprocessed_images
from mobileclip2.stages.trained import frozen_features, publish, tables_of, train_task
from mobileclip2.training.data import FeatureSource, RawSource, SampleSource
from mobileclip2.training.objectives import CoCaObjective


def run(batch: TaskBatch) -> None:
    """Train the captioner, or load its pretrained weights, and store it."""
    (task,) = batch.tasks
    config = batch.profile.captioner(batch.asset.name)
    settings = config.train
    device = choose_device(batch.profile.device)
    if config.base:
        base = task.only("base")
        captioner = load_captioner(base.fetch(CONFIG), base.fetch(WEIGHTS))
    else:
        weights = batch.inventory.weights_file(config.model.weights if config.model else config.trunk_weights)
        commits = batch.inventory.hub.recorded(config.model) if config.model else {}
        captioner = build_captioner(config, weights, commits=commits, seed=settings.seed if settings else 0)
    captioner.model.to(device)
    result = None
    if settings:
        source = training_source(batch, captioner, settings, device)
        result = train_task(batch, captioner.model, CoCaObjective(), source, settings, device)
    samples = settings.total_steps * settings.batch if settings else 0
    facts = {"embed_dim": captioner.embed_dim, **captioner.provenance, "samples": samples}
    publish(batch, result, partial(save, captioner), stored_files(captioner), facts)


def training_source(
    batch: TaskBatch, captioner: ImageText, settings: TrainSettings, device: torch.device
) -> SampleSource:
    """Return the training samples: images, or for a small captioner the features ``[n, C]`` of its frozen trunk."""
    (task,) = batch.tasks
    tables = tables_of(task.inputs["data"], batch.inventory)
    if SMALL not in captioner.config:
        return RawSource(
            ((local_copy(shard.url, shard.version_token), table) for shard, table in tables),
            captioner.tokenize,
            captioner.preprocess,
            seed=settings.seed,
        )

    def features(shard: Shard, table: pa.Table) -> dict[str, torch.Tensor]:
        images = preprocessed_images(shard, table, captioner.preprocess, batch.profile.batch, device)
        return {"features": torch.cat([trunk_features(captioner.model, pixels).cpu() for pixels in images])}

    shards = list(tables)
    images = frozen_features(batch, shards, features)["features"]
    texts = [text for _, table in shards for text in table.column("caption").to_pylist()]
    return FeatureSource(images, captioner.tokenize(texts), seed=settings.seed)

"""Trains a captioner: a CoCa from nothing, from published weights, or from an earlier captioner."""

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
from mobileclip2.models.build import CONFIG, WEIGHTS
from mobileclip2.models.device import choose_device
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import write_tensors
from mobileclip2.progress import Step
from mobileclip2.stages.prefetch import whole_images
from mobileclip2.stages.trained import publish, tables_of
from mobileclip2.training.data import FeatureSource, RawSource, SampleSource
from mobileclip2.training.objectives import CoCaObjective
from mobileclip2.training.trainer import train


def run(work: TaskBatch) -> None:
    """Train or load the captioner, and store it."""
    (part,) = work.parts
    work.kept.recall()
    declared = work.profile.captioner(work.asset.name)
    settings = declared.train
    device = choose_device(work.profile.device)
    if declared.base:
        base = part.only("base")
        captioner = load_captioner(base.fetch(CONFIG), base.fetch(WEIGHTS))
    else:
        weights = work.contents.captioner_weights(declared)
        captioner = build_captioner(declared, weights, seed=settings.seed if settings else 0)
    captioner.model.to(device)
    result = None
    if settings:
        result = train(
            captioner.model,
            CoCaObjective(),
            training_source(work, part, captioner, settings, device),
            settings,
            work.scratch,
            device=device,
            fingerprint=part.fingerprint,
            progress=work.progress,
            upload=work.kept.keep,
        )
    facts = {"embed_dim": captioner.embed_dim, "samples": settings.total_steps * settings.batch if settings else 0}
    publish(work, result, partial(save_captioner, captioner), [CONFIG, WEIGHTS], facts)


def training_source(
    work: TaskBatch, part: Task, captioner: ImageText, settings: TrainSettings, device: torch.device
) -> SampleSource:
    """Images as they are; for a small captioner the features of its frozen trunk, computed once."""
    tables = tables_of(part.inputs["data"], work.contents)
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
        features.append(shard_features(captioner, shard, table, work.scratch, device, work.profile.batch))
        texts += table.column("caption").to_pylist()
        work.progress(Step(number + 1, len(shards), "shards of frozen features"))
    return FeatureSource(torch.cat(features), captioner.tokenize(texts), seed=settings.seed)


def shard_features(
    captioner: ImageText, shard: Shard, table: pa.Table, scratch: Path, device: torch.device, batch: int
) -> torch.Tensor:
    """Trunk features ``[n, C]`` of one shard, kept until training is done."""
    kept = scratch / "features" / f"{shard.id}.safetensors"
    if not kept.exists():
        images = whole_images(shard, table, captioner.preprocess, batch, device)
        features = torch.cat([trunk_features(captioner.model, some).cpu() for some in images])
        write_tensors(kept, {"features": features})
    return load_file(kept)["features"]

"""Estimate time, memory and disk of each stage of a profile before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobileclip2.api.check import Checked
from mobileclip2.api.check_data import Opened, OpenedShards
from mobileclip2.asset_key import AssetKey
from mobileclip2.data.augmentation import sample_view
from mobileclip2.engine.cost import Costs
from mobileclip2.engine.graph import Asset
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError

if TYPE_CHECKING:
    from mobileclip2.api.check_models import SizedModel

ROW_BYTES = 150
"""of a row of ``raw_shards`` without its caption: key, size, hash and URL"""
CAPTION_BYTES = 60
"""of a synthetic caption"""
PREDICTION_BYTES = 40
"""of a row of the prediction table"""
BACKWARD = 3
"""operations of a training step, as a multiple of its forward pass"""
FP32 = 4
BF16 = 2


@dataclass(frozen=True)
class Estimate:
    """What one asset needs. None is unknown, or not worth stating."""

    asset: AssetKey
    samples: int
    """images, views, captions or training samples that it processes"""
    flops: float | None = None
    """operations of its models"""
    seconds: float | None = None
    """device-seconds, from the measured rate of the asset or from ``rates`` of the profile"""
    memory: int | None = None
    """bytes of weights and, in training, of gradients, moments and activations of a process"""
    disk: int | None = None
    """bytes in the store"""


def estimate(pipeline: Pipeline, checked: Checked) -> list[Estimate]:
    """Estimate every asset whose inputs and models were checked, in the order of the graph."""
    found = (_estimate(pipeline, checked, asset) for asset in pipeline.graph.values())
    return [each for each in found if each]


def _estimate(pipeline: Pipeline, checked: Checked, asset: Asset) -> Estimate | None:
    profile, slices = pipeline.profile, len(asset.slices)
    model = checked.models.get(_model_key(asset))
    first = checked.sources[0] if checked.sources else None
    samples, flops, memory, disk = _pairs(checked, asset.key) * slices, None, _weights(model), None
    match asset.stage:
        case "raw_shards":
            disk = sum(each.samples * (ROW_BYTES + len(each.caption.encode())) for each in checked.sources)
        case "filter_scores":
            if model:
                flops = samples * (model.image_flops + model.text_flops)
                disk = samples * (model.embed_dim * BF16 + ROW_BYTES)
        case "selection" | "selected_shards" | "caption_corpus" | "reinforced_shards":
            disk = samples * ROW_BYTES
        case "augmentations":
            disk = samples * _view_bytes(pipeline, first) if first else None
        case "teacher":
            if locked := profile.teacher(asset.name).locked:  # the frozen towers embed every pair once
                samples = sum(_pairs(checked, AssetKey(key)) for key in locked.train_on)
                flops = samples * (model.image_flops + model.text_flops) if model else None
            else:
                samples, disk = 0, _weights(model)
        case "captioner" | "student" | "study":
            samples = sum(slice_.training_samples or 0 for slice_ in asset.slices.values())
            flops, memory = _training(pipeline, asset, model, samples)
            # a training also keeps a checkpoint with AdamW's moments
            disk = (_weights(model) or 0) * (4 if samples else 1) * slices
        case "synthetic_captions":
            disk = samples * CAPTION_BYTES
        case "teacher_embeddings":
            if model:
                flops = samples * (model.image_flops if asset.key.kind == "image" else model.text_flops)
                disk = samples * model.embed_dim * BF16
        case "reinforced_dataset":
            disk = _reinforced(pipeline, checked)
        case "evaluation":
            samples = sum(each.samples for each in checked.sets.values())
            flops = samples * model.image_flops if model else None
            disk = samples * PREDICTION_BYTES
    if not samples and asset.stage not in {"teacher", "student", "captioner"}:
        return None  # its input is among the problems
    rate = _rate(pipeline, asset)
    return Estimate(asset.key, samples, flops or None, samples / rate if rate else None, memory, disk)


def _model_key(asset: Asset) -> str:
    """Return the asset whose model an asset runs."""
    match asset.stage:
        case "teacher_embeddings":
            return f"teacher/{asset.name}"
        case "synthetic_captions":
            return f"captioner/{asset.name}"
        case "filter_scores" | "evaluation":
            return next(iter(asset.slices.values())).inputs["model"].asset
    return asset.key


def _pairs(checked: Checked, key: AssetKey) -> int:
    """Return the number of pairs of a caption corpus, of published shards, or of the sources."""
    if key.stage in {"caption_corpus", "reinforced_shards"}:
        opened: Mapping[str, Opened] = checked.corpora if key.stage == "caption_corpus" else checked.reinforced
        return opened[key.name].samples if key.name in opened else 0
    return sum(source.samples for source in checked.sources)


def _training(
    pipeline: Pipeline, asset: Asset, model: SizedModel | None, samples: int
) -> tuple[float | None, int | None]:
    """Return the operations and the memory of a training."""
    profile = pipeline.profile
    if not model:
        return None, None
    if asset.stage == "captioner":
        train, texts = profile.captioner(asset.name).train, 1
    else:
        student = profile.student(profile.study(asset.name).student if asset.stage == "study" else asset.name)
        train = student.train
        texts = 2 if student.data == "reinforced" and student.loss.captions == "both" else 1
    if not train:
        return None, _weights(model)
    return samples * BACKWARD * (model.image_flops + texts * model.text_flops), model.training_bytes(train)


def _weights(model: SizedModel | None) -> int | None:
    return model.parameters * FP32 if model else None


def _view_bytes(pipeline: Pipeline, first: OpenedShards) -> int:
    views = pipeline.profile.views
    view = sample_view(views.augmentation, views.seed, first.key, 0, first.width, first.height)
    return len(view.to_json())


def _reinforced(pipeline: Pipeline, checked: Checked) -> int | None:
    """Return the bytes of the reinforced tars before compression."""
    profile = pipeline.profile
    teachers = [checked.models.get(f"teacher/{name}") for name in profile.dataset_teachers]
    dims = [teacher.embed_dim for teacher in teachers if teacher]
    if len(dims) < len(teachers):
        return None
    captions = sum(profile.captioner(name).captions for name in profile.dataset_captioners)
    number = FP32 if profile.dataset.storage == "npz" else BF16
    rows = profile.views.count + 1 + captions
    alike = captions * CAPTION_BYTES + rows * sum(dims) * number
    total = 0
    for source in checked.sources:
        texts = len(source.caption.encode()) + profile.views.count * _view_bytes(pipeline, source)
        image = source.image_bytes if profile.dataset.images else 0
        total += source.samples * (image + texts + alike)
    return total


def _rate(pipeline: Pipeline, asset: Asset) -> float | None:
    """Return the measured rate, or the profile's if the store cannot be read."""
    with suppress(UserError):
        return Costs(pipeline).rate(asset)
    stated = pipeline.profile.rates
    return stated.get(asset.key) or stated.get(asset.stage)

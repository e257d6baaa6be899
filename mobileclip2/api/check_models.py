"""Build the models of a profile at full size without memory for their weights, and measure what a sample costs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.utils.flop_counter import FlopCounterMode

from mobileclip2.captioners.coca import coca_of, small_coca
from mobileclip2.config.captioner import Captioner
from mobileclip2.config.model import Model
from mobileclip2.config.teacher import Locked
from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import UserError, WeightsError
from mobileclip2.models.build import build_without_weights
from mobileclip2.models.image_text import ImageText
from mobileclip2.teachers.text_encoder import declared_pooling
from mobileclip2.teachers.trunk import trunk_architecture

TEXTS = ("a photo of a red bicycle that leans against a wall, 12:30",)
"""probe of a tokenizer"""


@dataclass(frozen=True)
class SizedModel:
    """The size of a model."""

    architecture: str
    image_parameters: int
    text_parameters: int
    """parameters outside the image tower"""
    size: int
    """side of the input in pixels"""
    embed_dim: int
    context: int
    """length of a text in tokens"""
    image_flops: float
    """operations of the forward pass of one image; a multiplication and an addition are two"""
    text_flops: float
    activations: int = 0
    """bytes per sample that the backward pass needs, fp32"""

    @property
    def parameters(self) -> int:
        """Return the number of all parameters."""
        return self.image_parameters + self.text_parameters

    def training_bytes(self, train: TrainSettings) -> int:
        """Return the memory of a training process: weights, gradients, AdamW's moments, and activations of a micro-batch."""
        share = 2 if train.precision == "bf16" else 1
        fixed = self.parameters * 4 * 4  # four fp32 values: the weight, its gradient and AdamW's two moments
        return fixed + self.activations // share * (train.batch // train.accumulate)


def size_model(field: str, model: Model, commits: Mapping[str, str], train: TrainSettings | None) -> SizedModel:
    """Build a model on the meta device and measure it.

    Args:
        field: name in messages, such as ``teachers.mine.model``.
        train: settings of its training, or None if it is not trained.

    Raises:
        UserError: open_clip cannot build the model, a tower is missing, or tokenizer, image size and towers do not fit.
    """
    _check_towers(field, model)
    try:
        built = build_without_weights(model, commits)
    except UserError as error:
        raise type(error)(f"{field}: {str(error).removeprefix('model: ')}") from error
    return _measured(field, model.open_clip or _label(model.architecture), built, train)


def size_captioner(field: str, captioner: Captioner, commits: Mapping[str, str]) -> SizedModel:
    """Build a captioner on the meta device and measure it.

    Raises:
        UserError: as for :func:`size_model`, or the model writes no captions.
    """
    if captioner.small:
        try:
            with torch.device("meta"):
                built = small_coca(captioner.small)
        except Exception as error:  # timm raises exceptions of many types
            raise UserError(f"{field}.small: timm cannot build '{captioner.small.trunk}' ({error})") from error
        return _measured(f"{field}.small", f"small CoCa on {captioner.small.trunk}", built, captioner.train)
    assert captioner.model
    sized = size_model(f"{field}.model", captioner.model, commits, captioner.train)
    try:
        coca_of(build_without_weights(captioner.model, commits))
    except UserError as error:
        raise UserError(f"{field}.model: {str(error).removeprefix('captioner: ')}") from error
    return sized


def size_locked(field: str, spec: Locked, text_weights: Path | None) -> SizedModel:
    """Build the image tower of a locked teacher on the meta device, and read the configuration of its text tower.

    ``text_weights`` is a file on this machine, or None for a text tower of the hub.

    Raises:
        WeightsError: timm or transformers cannot build a tower.
    """
    with torch.device("meta"):
        trunk = trunk_architecture(spec).eval()
        text = _text_tower(field, text_weights) if text_weights else None
    images = torch.zeros(1, 3, spec.size, spec.size, device="meta")
    features, image_flops = _forward(f"{field}.trunk", trunk, lambda: trunk(images))
    if features is not None and features.ndim != 2:
        raise WeightsError(f"{field}.trunk: '{spec.trunk}' returns no pooled features; choose a classifier of timm")
    text_parameters = sum(each.numel() for each in text.parameters()) if text else 0
    text_flops = 0.0
    if text:
        tokens = torch.zeros(1, spec.context, dtype=torch.long, device="meta")
        _, text_flops = _forward(f"{field}.text_weights", text, lambda: text(input_ids=tokens).last_hidden_state)
    image_parameters = sum(each.numel() for each in trunk.parameters())
    return SizedModel(
        f"{spec.trunk} + {spec.text or 'text encoder'}, locked",
        image_parameters,
        text_parameters,
        spec.size,
        spec.embed_dim,
        spec.context,
        image_flops,
        text_flops,
    )


def _text_tower(field: str, weights: Path) -> nn.Module:
    from transformers import AutoConfig, AutoModel

    folder = weights.parent
    declared_pooling(folder)
    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        tower: nn.Module = AutoModel.from_config(config).eval()
    except Exception as error:  # transformers raises exceptions of many types
        raise WeightsError(
            f"{field}.text_weights: {folder}: transformers cannot build a text encoder "
            f"({type(error).__name__}: {str(error).splitlines()[0]}); the folder must hold config.json and the tokenizer"
        ) from error
    return tower


def _check_towers(field: str, model: Model) -> None:
    """Raise ``UserError`` if a configuration has only one tower."""
    if model.from_hub:
        return
    for key, tower, use in (
        ("text_cfg", "text tower", "it embeds captions as well as images"),
        ("vision_cfg", "image tower", "it embeds images as well as captions"),
    ):
        if key not in model.architecture:
            raise UserError(
                f"{field}: the model has no {tower} ('{key}'); {use}. Name an image-text model, or combine an image trunk "
                "with a text encoder in a 'locked' teacher: docs/add-a-teacher.md"
            )
    if not isinstance(model.architecture.get("embed_dim"), int):
        raise UserError(f"{field}: 'embed_dim' is missing in the configuration; set the size of the embeddings")


def _measured(field: str, label: str, built: ImageText, train: TrainSettings | None) -> SizedModel:
    model: Any = built.model
    size = built.preprocess.size
    images = torch.zeros(2, 3, size, size, device="meta")
    tokens = built.tokenize(TEXTS * 2)
    vocabulary = _vocabulary(model)
    if vocabulary and int(tokens.max()) >= vocabulary:
        raise UserError(
            f"{field}: the tokenizer gives the token {int(tokens.max())}, and the text tower has a vocabulary of "
            f"{vocabulary:,}; set 'text_cfg.vocab_size' to the vocabulary of the tokenizer"
        )
    tokens = tokens.to("meta")
    image, image_flops = _forward(
        f"{field}: images of {size} x {size} pixels", model, lambda: model.encode_image(images)
    )
    text, text_flops = _forward(f"{field}: texts of {tokens.shape[1]} tokens", model, lambda: model.encode_text(tokens))
    for tower, features in (("image", image), ("text", text)):
        if features is not None and features.shape[1] != built.embed_dim:
            raise UserError(
                f"{field}: the {tower} tower gives {features.shape[1]} dimensions, and 'embed_dim' is {built.embed_dim}; "
                "set 'embed_dim' to the dimensions of both towers"
            )
    image_parameters = sum(each.numel() for each in model.visual.parameters())
    return SizedModel(
        label,
        image_parameters,
        sum(each.numel() for each in model.parameters()) - image_parameters,
        size,
        built.embed_dim,
        tokens.shape[1],
        image_flops / 2,
        text_flops / 2,
        _activations(model, images, tokens, train) if train else 0,
    )


def _forward(what: str, model: nn.Module, run: Callable[[], Any]) -> tuple[Tensor | None, float]:
    """Return the output and the operations of a forward pass, or None and 0 if the meta device cannot run it.

    Raises:
        UserError: the shapes do not fit.
    """
    model.eval()
    counter = FlopCounterMode(display=False)
    try:
        with torch.no_grad(), counter:
            output = run()
    except Exception as error:  # towers raise exceptions of many types
        if isinstance(error, NotImplementedError) or "meta" in str(error).lower():
            return None, 0.0
        raise UserError(
            f"{what} do not fit the model ({type(error).__name__}: {str(error).splitlines()[0]})"
        ) from error
    return (output if isinstance(output, Tensor) else output[0]), float(counter.get_total_flops())


def _activations(model: Any, images: Tensor, tokens: Tensor, train: TrainSettings) -> int:
    """Return the bytes per sample that a forward pass keeps for the backward pass."""
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            kept[id(tensor)] = tensor
        return tensor

    if train.gradient_checkpointing and hasattr(model, "set_grad_checkpointing"):
        model.set_grad_checkpointing(True)
    model.train()
    try:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            outputs = model.encode_image(images), model.encode_text(tokens)
    except Exception:  # the forward pass in evaluation mode has found what is wrong with the profile
        return 0
    finally:
        model.eval()
    del outputs
    return sum(tensor.numel() * tensor.element_size() for tensor in kept.values()) // len(images)


def _vocabulary(model: Any) -> int | None:
    for owner in (model, getattr(model, "text", None)):
        embedding = getattr(owner, "token_embedding", None)
        if isinstance(embedding, nn.Embedding):
            return embedding.num_embeddings
    return None


def _label(architecture: Mapping[str, Any]) -> str:
    vision = architecture.get("vision_cfg") or {}
    trunk = vision.get("timm_model_name")
    return str(trunk or f"config {json.dumps({name: vision[name] for name in ('layers', 'width') if name in vision})}")

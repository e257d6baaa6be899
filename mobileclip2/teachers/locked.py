"""Locked-image tuning (LiT, Zhai et al., CVPR 2022) with two frozen pretrained towers.

Features of the frozen towers are computed once. Then the two projections are trained on these features in memory.
"""

from __future__ import annotations

import json
import math
import shutil
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn

from mobileclip2.config.teacher import Locked
from mobileclip2.fingerprint import declared
from mobileclip2.models.checkpoint import read_state
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import write_tensors
from mobileclip2.teachers.text_encoder import TextEncoder, TrimmedTokenizer, build_text_encoder
from mobileclip2.teachers.trunk import build_trunk, trunk_preprocess, trunk_width

SPEC = "locked.json"
PROJECTIONS = "projections.safetensors"


class LockedTowers(nn.Module):
    """Two frozen towers with trainable projections. The names of tensors are those of an open_clip model."""

    def __init__(self, trunk: nn.Module, image_width: int, embed_dim: int, hidden: int | None = None) -> None:
        super().__init__()
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        if hidden:
            layers.update(hidden=nn.Linear(image_width, hidden), act=nn.GELU())
        layers["proj"] = nn.Linear(hidden or image_width, embed_dim, bias=False)
        self.visual = nn.ModuleDict({"trunk": trunk, "head": nn.Sequential(layers)})
        self.text: TextEncoder
        self.logit_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Embed images ``[b, 3, size, size]`` as ``[b, embed_dim]``."""
        projected: torch.Tensor = self.visual["head"](self.visual["trunk"](images))
        return projected

    def encode_text(self, tokens: torch.Tensor) -> torch.Tensor:
        """Embed tokens ``[b, context]`` as ``[b, embed_dim]``."""
        projected: torch.Tensor = self.text(tokens)
        return projected


def build_locked(spec: Locked, trunk_weights: Path, text_weights: Path, *, seed: int = 0) -> ImageText:
    """Build frozen pretrained towers with projections that are initialized from ``seed``.

    The folder of ``text_weights`` also contains the config and the tokenizer for transformers.

    Raises:
        WeightsError: the weights of a tower are missing, damaged or do not fit.
    """
    torch.manual_seed(seed)
    trunk = build_trunk(spec, trunk_weights)
    model = LockedTowers(trunk, trunk_width(trunk, spec.size), spec.embed_dim, spec.hidden)
    model.text = build_text_encoder(text_weights, spec.embed_dim, spec.context, spec.text_pooling)
    tokenize = TrimmedTokenizer(str(text_weights.parent), spec.context)
    return ImageText(model.eval(), tokenize, trunk_preprocess(spec), spec.embed_dim)


class Projections(nn.Module):
    """The trainable projections of a locked model, which take features of its frozen towers."""

    def __init__(self, locked: nn.Module, dropout: float = 0.0) -> None:
        super().__init__()
        towers = cast(LockedTowers, locked)
        self.drop = nn.Dropout(dropout)
        self.image, self.text = towers.visual["head"], towers.text.proj
        self.logit_scale = towers.logit_scale

    def encode_image(self, features: torch.Tensor) -> torch.Tensor:
        """Project image-tower features ``[b, F]`` to ``[b, embed_dim]``."""
        projected: torch.Tensor = self.image(self.drop(features))
        return projected

    def encode_text(self, features: torch.Tensor) -> torch.Tensor:
        """Project text-tower features ``[b, G]`` to ``[b, embed_dim]``."""
        projected: torch.Tensor = self.text(self.drop(features))
        return projected


@torch.inference_mode()
def image_trunk_features(locked: ImageText, images: torch.Tensor) -> torch.Tensor:
    """Compute pooled trunk features ``[b, F]`` of images ``[b, 3, size, size]``."""
    towers: Any = locked.model
    features: torch.Tensor = towers.visual["trunk"](images)
    return features


@torch.inference_mode()
def text_trunk_features(locked: ImageText, texts: Sequence[str]) -> torch.Tensor:
    """Compute the pooled text-tower features of texts, ``[len(texts), G]``."""
    encoder: Any = locked.model.text
    features: torch.Tensor = encoder.features(locked.tokenize(texts).to(next(encoder.parameters()).device))
    return features


def save_projections(projections: nn.Module, spec: Locked, towers: Mapping[str, Path], folder: Path) -> None:
    """Write the projections, ``locked.json`` and copies of ``towers``, the downloaded files.

    ``locked.json`` pins the weights of the other towers by hash.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name, file in towers.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, folder / name)
    (folder / SPEC).write_text(json.dumps(declared(spec), indent=1, sort_keys=True) + "\n")
    write_tensors(folder / PROJECTIONS, projections.state_dict())


def load_locked(spec: Locked, projections_file: Path, trunk_weights: Path, text_weights: Path) -> ImageText:
    """Load a trained locked teacher."""
    locked = build_locked(spec, trunk_weights, text_weights)
    Projections(locked.model).load_state_dict(read_state(projections_file))
    return locked

"""Locked-image tuning (LiT, Zhai et al., CVPR 2022) with two frozen pretrained towers.

Features of the frozen towers are computed once. Then the two projections are trained on these features in memory.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import open_clip
import timm
import torch
from open_clip.model import CustomTextCLIP
from torch import nn

from mobileclip2.config.teacher import Locked
from mobileclip2.data.preprocess import Color, Preprocess
from mobileclip2.errors import WeightsError
from mobileclip2.fingerprint import declared
from mobileclip2.models.checkpoint import read_state
from mobileclip2.models.efficientnet_lite import efficientnet_lite_state
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.tensors import write_tensors

SPEC = "locked.json"
PROJECTIONS = "projections.safetensors"


def build_locked(spec: Locked, trunk_weights: Path, text_weights: Path, *, seed: int = 0) -> ImageText:
    """Build frozen pretrained towers with projections that are initialized from ``seed``.

    The folder of ``text_weights`` also contains the config and the tokenizer for transformers.

    Raises:
        WeightsError: the weights of a tower are missing or differ from the pinned ones.
    """
    pretrained_cfg = timm.get_pretrained_cfg(spec.trunk)
    if pretrained_cfg is None:
        raise WeightsError(
            f"teacher: timm has no model '{spec.trunk}'; set 'locked.trunk' to a name from timm.list_models()"
        )
    torch.manual_seed(seed)
    with _quiet():
        model = CustomTextCLIP(
            embed_dim=spec.embed_dim,
            vision_cfg={
                "timm_model_name": spec.trunk,
                "timm_model_pretrained": False,
                "timm_pool": "",
                "timm_proj": "linear",
                "image_size": spec.size,
            },
            text_cfg={
                "hf_model_name": str(text_weights.parent),
                "hf_tokenizer_name": str(text_weights.parent),
                "hf_pooler_type": "mean_pooler",
                "hf_proj_type": "linear",
            },
        )
    state = read_state(trunk_weights)
    model.visual.trunk.load_state_dict(efficientnet_lite_state(state, model.visual.trunk))
    for tower in (model.visual.trunk, model.text.transformer):
        tower.requires_grad_(False)
    tokenize = TrimmedTokenizer(open_clip.tokenizer.HFTokenizer(str(text_weights.parent), context_length=spec.context))
    mean, std = cast(Color, pretrained_cfg.mean), cast(Color, pretrained_cfg.std)
    preprocess = Preprocess(spec.size, mean, std)
    return ImageText(model.eval(), tokenize, preprocess, spec.embed_dim)


class TrimmedTokenizer:
    """A tokenizer that drops columns with padding in every row. The attention mask hides them from the tower anyway."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, texts: Sequence[str]) -> torch.Tensor:
        """Tokenize ``texts`` as int64 ``[len(texts), length of the longest]``."""
        tokens: torch.Tensor = self.tokenizer(list(texts))
        used = (tokens != self.tokenizer.tokenizer.pad_token_id).any(0)
        return tokens[:, : int(used.sum())]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Suppress the warning of transformers about the unused pooler."""
    import transformers

    level = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(level)


class Projections(nn.Module):
    """The trainable projections of a locked model, which take features of its frozen towers."""

    def __init__(self, locked: CustomTextCLIP) -> None:
        super().__init__()
        self.image, self.text = locked.visual.head, locked.text.proj
        self.logit_scale = locked.logit_scale

    def encode_image(self, features: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Project image-tower features ``[b, F]`` to ``[b, embed_dim]``."""
        projected: torch.Tensor = self.image(features)
        return nn.functional.normalize(projected, dim=-1) if normalize else projected

    def encode_text(self, features: torch.Tensor, normalize: bool = False) -> torch.Tensor:
        """Project text-tower features ``[b, G]`` to ``[b, embed_dim]``."""
        projected: torch.Tensor = self.text(features)
        return nn.functional.normalize(projected, dim=-1) if normalize else projected


@torch.inference_mode()
def image_trunk_features(locked: ImageText, images: torch.Tensor) -> torch.Tensor:
    """Compute pooled trunk features ``[b, F]`` of images ``[b, 3, size, size]``."""
    tower: Any = locked.model.visual
    features: torch.Tensor = tower.trunk(images)
    return features


@torch.inference_mode()
def text_trunk_features(locked: ImageText, texts: Sequence[str]) -> torch.Tensor:
    """Compute the pooled text-tower features of texts, ``[len(texts), G]``."""
    tower: Any = locked.model.text
    tokens = locked.tokenize(texts).to(next(tower.parameters()).device)
    mask = (tokens != tower.config.pad_token_id).long()
    features: torch.Tensor = tower.pooler(tower.transformer(input_ids=tokens, attention_mask=mask), mask)
    return features


def save_projections(projections: nn.Module, spec: Locked, folder: Path) -> None:
    """Write the projections and ``locked.json``, which pins the weights of the frozen towers by hash."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / SPEC).write_text(json.dumps(declared(spec), indent=1, sort_keys=True) + "\n")
    write_tensors(folder / PROJECTIONS, projections.state_dict())


def load_locked(spec: Locked, projections_file: Path, trunk_weights: Path, text_weights: Path) -> ImageText:
    """Load a trained locked teacher."""
    locked = build_locked(spec, trunk_weights, text_weights)
    Projections(locked.model).load_state_dict(read_state(projections_file))
    return locked

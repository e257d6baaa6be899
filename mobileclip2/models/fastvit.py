"""A FastViT small enough to train in minutes on two CPU cores, built from timm's own blocks."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models._builder import build_model_with_cfg
from timm.models.fastvit import FastVit


@register_model
def fastvit_nano(pretrained: bool = False, **kwargs: Any) -> FastVit:
    """FastViT (Vasu et al., ICCV 2023) with four narrow stages of RepMixer blocks, about 0.2 M parameters."""
    args = {
        "layers": (1, 1, 1, 1),
        "embed_dims": (16, 32, 64, 128),
        "mlp_ratios": (3, 3, 3, 3),
        "token_mixers": ("repmixer", "repmixer", "repmixer", "repmixer"),
    }
    return build_model_with_cfg(FastVit, "fastvit_nano", pretrained, **{**args, **kwargs})

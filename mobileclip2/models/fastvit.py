"""A FastViT small enough to train in minutes on two CPU cores, built from timm's own blocks."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models._builder import build_model_with_cfg
from timm.models.fastvit import FastVit, MobileOneBlock
from torch import nn


class SmallFastVit(FastVit):
    """FastViT (Vasu et al., ICCV 2023) whose stem and downsampling are dense convolutions.

    The original's depthwise ones save arithmetic that nobody misses at a few dozen pixels, and CPUs run them slowly.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        widths = list(kwargs["embed_dims"])
        self.stem = nn.Sequential(_halve(kwargs.get("in_chans", 3), widths[0] // 2), _halve(widths[0] // 2, widths[0]))
        for stage, narrow, wide in zip(list(self.stages)[1:], widths, widths[1:], strict=False):
            stage.downsample = _halve(narrow, wide)


def _halve(narrow: int, wide: int) -> nn.Module:
    return MobileOneBlock(narrow, wide, kernel_size=3, stride=2, group_size=0)


@register_model
def fastvit_nano(pretrained: bool = False, **kwargs: Any) -> SmallFastVit:
    """Stages at 1/4, 1/8 and 1/16 of the input's side and a RepMixer block in the last, about 0.45 M parameters."""
    args = {
        "layers": (0, 0, 1),
        "embed_dims": (48, 96, 192),
        "mlp_ratios": (2, 2, 2),
        "token_mixers": ("repmixer", "repmixer", "repmixer"),
        "downsamples": (False, True, True),
        "pos_embs": (None, None, None),
    }
    return build_model_with_cfg(SmallFastVit, "fastvit_nano", pretrained, **{**args, **kwargs})

"""A small FastViT, built from timm's blocks, that trains in minutes on two CPU cores."""

from __future__ import annotations

from typing import Any

from timm.models import register_model
from timm.models._builder import build_model_with_cfg
from timm.models.fastvit import FastVit, MobileOneBlock
from torch import nn


class SmallFastVit(FastVit):
    """FastViT (Vasu et al., ICCV 2023) with dense convolutions in its stem and downsampling layers.

    The original uses depthwise convolutions. CPUs run them slowly, and at a few dozen pixels they save little arithmetic.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        widths = list(kwargs["embed_dims"])
        self.stem = nn.Sequential(
            _downsample(kwargs.get("in_chans", 3), widths[0] // 2), _downsample(widths[0] // 2, widths[0])
        )
        for stage, in_channels, out_channels in zip(list(self.stages)[1:], widths, widths[1:], strict=False):
            stage.downsample = _downsample(in_channels, out_channels)


def _downsample(in_channels: int, out_channels: int) -> nn.Module:
    return MobileOneBlock(in_channels, out_channels, kernel_size=3, stride=2, group_size=0)


@register_model
def fastvit_nano(pretrained: bool = False, **kwargs: Any) -> SmallFastVit:
    """Build a model of 0.45 M parameters: stages at 1/4, 1/8 and 1/16 of the input size, one RepMixer block in the last."""
    args = {
        "layers": (0, 0, 1),
        "embed_dims": (48, 96, 192),
        "mlp_ratios": (2, 2, 2),
        "token_mixers": ("repmixer", "repmixer", "repmixer"),
        "downsamples": (False, True, True),
        "pos_embs": (None, None, None),
    }
    return build_model_with_cfg(SmallFastVit, "fastvit_nano", pretrained, **{**args, **kwargs})

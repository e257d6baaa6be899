"""Fuse parallel training branches into one convolution (Ding et al., CVPR 2021; Vasu et al., ICCV 2023)."""

from __future__ import annotations

from timm.utils.model import reparameterize_model
from torch import nn


def reparameterize(model: nn.Module) -> nn.Module:
    """Return a copy of ``model`` in evaluation mode, with parallel branches and their batch norms fused.

    The copy is faster and has the same outputs up to rounding. Its state dict has other names than the architecture,
    so ``models.build.save`` cannot store it.
    """
    return reparameterize_model(model).eval()

"""Branches that only training needs, folded into one convolution (Ding et al., CVPR 2021; Vasu et al., ICCV 2023)."""

from __future__ import annotations

from timm.utils.model import reparameterize_model
from torch import nn


def reparameterize(model: nn.Module) -> nn.Module:
    """Copy ``model`` in evaluation mode, with parallel branches and their batch norms fused.

    Other layers stay as they are.

    It computes what ``model`` does in evaluation mode, faster, up to rounding. Its state has other names than the
    architecture that it was trained as, so it is for inference and not for ``models.build.save``.
    """
    return reparameterize_model(model).eval()

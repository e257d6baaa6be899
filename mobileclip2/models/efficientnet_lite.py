"""EfficientNet-Lite weights as published in PyTorch's own naming, carried over to timm."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mobileclip2.errors import WeightsError


def efficientnet_lite_state(state: Mapping[str, torch.Tensor], timm_model: nn.Module) -> dict[str, torch.Tensor]:
    """``state`` under the names of ``timm_model`` (``tf_efficientnet_lite*``, with or without classifier).

    The two implementations list the same tensors in the same order, so they are matched by position; a model
    without classifier leaves the last two out. Raises ``WeightsError`` naming the first tensor whose shape
    differs.
    """
    target = timm_model.state_dict()
    surplus = len(state) - len(target)
    if surplus not in (0, 2):
        raise WeightsError(
            f"EfficientNet-Lite weights: {len(state)} tensors where the timm model has {len(target)}; "
            "give the state dict of the same Lite size"
        )
    for (theirs, value), (ours, wanted) in zip(state.items(), target.items(), strict=False):
        if value.shape != wanted.shape:
            raise WeightsError(
                f"EfficientNet-Lite weights: {theirs} is {list(value.shape)}, "
                f"timm's {ours} is {list(wanted.shape)}; give the state dict of the same Lite size"
            )
    return dict(zip(target, state.values(), strict=False))

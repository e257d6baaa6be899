"""Convert published EfficientNet-Lite weights to timm's names."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from mobileclip2.errors import WeightsError


def efficientnet_lite_state(state: Mapping[str, torch.Tensor], timm_model: nn.Module) -> dict[str, torch.Tensor]:
    """Rename the tensors of ``state`` to those of ``timm_model`` (``tf_efficientnet_lite*``).

    Both implementations list the same tensors in the same order, so position matches them. The last two tensors are
    the classifier. They are dropped if ``timm_model`` does not have one.

    Raises:
        WeightsError: the number of tensors or a shape differs.
    """
    target = timm_model.state_dict()
    if len(state) - len(target) not in (0, 2):
        raise WeightsError(
            f"EfficientNet-Lite weights: {len(state)} tensors where the timm model has {len(target)}; "
            "use the state dict of the same Lite size"
        )
    for (source_name, value), (timm_name, expected) in zip(state.items(), target.items(), strict=False):
        if value.shape != expected.shape:
            raise WeightsError(
                f"EfficientNet-Lite weights: {source_name} is {list(value.shape)}, "
                f"timm's {timm_name} is {list(expected.shape)}; use the state dict of the same Lite size"
            )
    return dict(zip(target, state.values(), strict=False))

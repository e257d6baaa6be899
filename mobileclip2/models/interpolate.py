"""Interpolate the weights of two models (Wortsman et al. 2022, *Robust fine-tuning of zero-shot models*)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def interpolated(start: Mapping[str, Tensor], end: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Interpolate two state dicts of one architecture. Weight 0 returns ``start`` and 1 returns ``end``, bit for bit.

    Batch norm statistics are interpolated like parameters. Integer tensors, such as batch counters, are taken from
    ``end`` unless the weight is 0.
    """
    if weight in (0, 1):
        return dict(end if weight else start)
    return {
        name: torch.lerp(tensor, end[name], weight) if tensor.is_floating_point() else end[name]
        for name, tensor in start.items()
    }

"""Weights on the line between two states of one architecture (Wortsman et al. 2022, *Robust fine-tuning of zero-shot models*)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def interpolated(start: Mapping[str, Tensor], end: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Interpolate two states: 0 is ``start`` and 1 is ``end``, both bit for bit.

    Statistics of batch norms lie between as parameters do. Whole numbers, such as their counts of batches, are the end's
    everywhere but at the start.
    """
    if weight in (0, 1):
        return dict(end if weight else start)
    return {
        name: torch.lerp(tensor, end[name], weight) if tensor.is_floating_point() else end[name]
        for name, tensor in start.items()
    }

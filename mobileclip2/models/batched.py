"""Embed many items in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def in_batches(embed: Callable[[Sequence[T]], torch.Tensor], items: Sequence[T], batch: int) -> torch.Tensor:
    """Apply ``embed`` to one or more items and return ``[len(items), ...]`` on the CPU, in the order of the items."""
    # A copy per batch would synchronize with the device, so one copy follows the last batch.
    return torch.cat([embed(items[start : start + batch]) for start in range(0, len(items), batch)]).cpu()


def each_text_once(embed: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str], batch: int) -> torch.Tensor:
    """Apply ``embed`` once to each distinct text and return ``[len(texts), ...]`` on the CPU."""
    # Texts of similar length share a batch, so batches contain little padding.
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    index = {text: position for position, text in enumerate(distinct)}
    return in_batches(embed, distinct, batch)[torch.tensor([index[text] for text in texts])]

"""Embedding many things a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch

T = TypeVar("T")


def in_batches(embed: Callable[[Sequence[T]], torch.Tensor], items: Sequence[T], batch: int) -> torch.Tensor:
    """``embed`` over all items, at least one, in their order: ``[len(items), ...]`` on the CPU.

    Results stay on the device until the last: a copy would wait for it while the next batch could be made.
    """
    return torch.cat([embed(items[start : start + batch]) for start in range(0, len(items), batch)]).cpu()


def each_text_once(embed: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str], batch: int) -> torch.Tensor:
    """``embed`` over the distinct texts, short ones with short ones so that little of a batch is padding."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    return in_batches(embed, distinct, batch)[torch.tensor([place[text] for text in texts])]

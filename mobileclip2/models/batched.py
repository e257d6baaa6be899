"""Embedding many things a batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import TypeVar

import torch

T = TypeVar("T")


def in_batches(embed: Callable[[Sequence[T]], torch.Tensor], items: Iterable[T], batch: int) -> torch.Tensor:
    """``embed`` over all items, at least one, in their order: ``[len(items), ...]`` on the CPU; holds one batch of them."""
    waiting, embedded = iter(items), []
    while some := list(islice(waiting, batch)):
        embedded.append(embed(some).cpu())
    return torch.cat(embedded)


def each_text_once(embed: Callable[[Sequence[str]], torch.Tensor], texts: Sequence[str], batch: int) -> torch.Tensor:
    """``embed`` over the distinct texts, short ones with short ones so that little of a batch is padding."""
    distinct = sorted(set(texts), key=lambda text: (len(text), text))
    place = {text: number for number, text in enumerate(distinct)}
    return in_batches(embed, distinct, batch)[torch.tensor([place[text] for text in texts])]

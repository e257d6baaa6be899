"""Rank candidates by similarity. Accuracy and recall follow from the ranks."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 256
"""Number of queries per block. The scores of 25,000 captions and 5,000 images do not fit into memory at once."""


def rank(queries: Tensor, candidates: Tensor, belongs: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rank of the best correct candidate ``[n]`` and the index of the first candidate ``[n]``.

    ``queries [n, D]`` and ``candidates [m, D]`` are normalized features. A candidate is correct if ``to [m]`` equals
    ``belongs [n]`` of the query. Each query has at least one correct candidate. Ties go to the lower index, so a constant
    model gets the result of chance.
    """
    ranks, first = [], []
    index = torch.arange(len(candidates))
    for start in range(0, len(queries), ROWS):
        scores = queries[start : start + ROWS] @ candidates.T
        correct = belongs[start : start + ROWS, None] == to[None]
        best, position = scores.masked_fill(~correct, -torch.inf).max(1, keepdim=True)
        ranks.append(((scores > best) | ((scores == best) & (index < position))).sum(1))
        first.append(scores.argmax(1))
    return torch.cat(ranks), torch.cat(first)


def nearest(queries: Tensor, candidates: Tensor, count: int) -> Tensor:
    """Return the indices of the nearest candidates in their order, ``[n, min(count, m)]``.

    The choice among ties at the end of the list is arbitrary, so metrics must not use it.
    """
    blocks = []
    for start in range(0, len(queries), ROWS):
        scores = queries[start : start + ROWS] @ candidates.T
        index = scores.topk(min(count, len(candidates))).indices.sort(1).values
        order = scores.gather(1, index).argsort(dim=1, descending=True, stable=True)
        blocks.append(index.gather(1, order))
    return torch.cat(blocks)

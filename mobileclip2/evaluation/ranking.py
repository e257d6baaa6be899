"""Where the right answer comes in a model's order: the one measurement behind accuracy and recall."""

from __future__ import annotations

import torch
from torch import Tensor

ROWS = 256
"""queries at once, so that 25,000 captions against 5,000 images do not need all scores in memory"""


def rank(queries: Tensor, candidates: Tensor, belongs: Tensor, to: Tensor) -> tuple[Tensor, Tensor]:
    """Count the candidates before the best right one of each query, and return the index of the first candidate.

    ``queries [n, D]`` and ``candidates [m, D]`` are normalized features; a candidate is right where ``to [m]``
    equals the query's ``belongs [n]``, at least once for each query. Of equal scores the lower index comes
    first, so that a model that sees no difference gets the result of chance and not of luck.
    """
    ranks, first = [], []
    index = torch.arange(len(candidates))
    for start in range(0, len(queries), ROWS):
        scores = queries[start : start + ROWS] @ candidates.T
        right = belongs[start : start + ROWS, None] == to[None]
        best, place = scores.masked_fill(~right, -torch.inf).max(1, keepdim=True)
        ranks.append(((scores > best) | ((scores == best) & (index < place))).sum(1))
        first.append(scores.argmax(1))
    return torch.cat(ranks), torch.cat(first)


def nearest(queries: Tensor, candidates: Tensor, count: int) -> Tensor:
    """``[n, min(count, m)]``: indices of the candidates that come first, in their order.

    To be looked at and not to be measured: of equal scores at the end of the list any may be in it.
    """
    found = []
    for start in range(0, len(queries), ROWS):
        scores = queries[start : start + ROWS] @ candidates.T
        index = scores.topk(min(count, len(candidates))).indices.sort(1).values
        order = scores.gather(1, index).argsort(dim=1, descending=True, stable=True)
        found.append(index.gather(1, order))
    return torch.cat(found)

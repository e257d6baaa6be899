"""Select pairs by their scores: the best share or a threshold, without near duplicates and pictures of evaluation sets.

The result depends on the pairs alone, not on their order or their groups. Pairs with equal scores are ordered by shard and
key, which are unique.
"""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

BLOCK = 1024
"""rows of a block of similarities; a product has ``BLOCK * BLOCK`` numbers, 4 MB"""

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.int64]


def removed_name(group: str) -> str:
    """Return the name of the file with the removed pairs of a group."""
    return f"{group}.parquet"


def by_rank(scores: Floats, names: Sequence[tuple[str, str]]) -> Indices:
    """Return the positions of all pairs, best score first. ``names`` are the shards and keys."""
    return np.array(sorted(range(len(scores)), key=lambda row: (-scores[row], names[row])), np.int64)


def best_share(ranked: Indices, share: float) -> Indices:
    """Return the first ``floor(share * n)`` positions, at least one."""
    # 0.29 * 100 is below 29 in binary
    return ranked[: max(1, int(Fraction(repr(share)) * len(ranked)))]


def at_least(ranked: Indices, scores: Floats, threshold: float) -> Indices:
    """Return the positions with ``scores >= threshold``, in the precision of the scores."""
    return ranked[scores[ranked] >= np.float32(threshold)]


def near_any(features: Floats, others: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """Return for each row of ``[n, D]`` whether its cosine similarity to a row of ``others`` reaches the threshold."""
    found = np.zeros(len(features), np.bool_)
    for start in range(0, len(features), BLOCK):
        rows = slice(start, start + BLOCK)
        for first in range(0, len(others), BLOCK):
            found[rows] |= (features[rows] @ others[first : first + BLOCK].T >= np.float32(threshold)).any(axis=1)
    return found


def near_duplicates(features: Floats, threshold: float) -> npt.NDArray[np.bool_]:
    """Return for each row of ``[n, D]`` whether it is a near duplicate of an earlier row that is kept.

    The time grows with ``n * n * D``. Memory holds a copy of the kept rows and a block of similarities.
    """
    duplicate = np.zeros(len(features), np.bool_)
    kept = np.empty_like(features)
    count = 0
    for start in range(0, len(features), BLOCK):
        block = features[start : start + BLOCK]
        found = near_any(block, kept[:count], threshold)
        within = block @ block.T >= np.float32(threshold)
        for row in range(len(block)):
            if not found[row]:
                found[row + 1 :] |= within[row, row + 1 :]
        duplicate[start : start + BLOCK] = found
        new = block[~found]
        kept[count : count + len(new)] = new
        count += len(new)
    return duplicate

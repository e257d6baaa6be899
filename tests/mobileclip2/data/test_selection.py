"""Properties of the selection: exact shares, inclusive thresholds, and independence of order and groups."""

from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mobileclip2.data import selection
from mobileclip2.data.selection import at_least, best_share, by_rank, near_any, near_duplicates

# few distinct values, so that ties are common
SCORES = st.lists(st.integers(-4, 4).map(lambda number: number / 8), min_size=1, max_size=60)


def arrays(scores: list[float]) -> tuple[np.ndarray, list[tuple[str, str]]]:
    return np.array(scores, np.float32), [(f"s{row % 3}", f"{row:03d}") for row in range(len(scores))]


@given(SCORES, st.integers(1, 100))
def test_the_share_is_exact_with_ties_and_keeps_the_best(scores, percent):
    values, names = arrays(scores)
    kept = best_share(by_rank(values, names), percent / 100)
    assert len(kept) == max(1, Fraction(percent, 100) * len(scores) // 1)
    left = np.setdiff1d(np.arange(len(scores)), kept)
    assert not len(left) or values[kept].min() >= values[left].max()


@given(SCORES, st.integers(1, 100), st.randoms(use_true_random=False))
def test_the_order_of_the_pairs_does_not_matter(scores, percent, random):
    values, names = arrays(scores)
    order = list(range(len(scores)))
    random.shuffle(order)
    kept = best_share(by_rank(values, names), percent / 100)
    mixed = best_share(by_rank(values[order], [names[row] for row in order]), percent / 100)
    assert [names[row] for row in kept] == [names[order[row]] for row in mixed]


def test_a_threshold_is_inclusive_at_the_precision_of_the_scores():
    values, names = arrays([0.7, 0.28, 0.2799, 0.9])
    assert at_least(by_rank(values, names), values, 0.28).tolist() == [3, 0, 1]
    assert at_least(by_rank(values, names), values, 0.7).tolist() == [3, 0]


@given(st.integers(0, 2**32 - 1), st.integers(1, 40), st.sampled_from([0.0, 0.5, 0.9]))
def test_blockwise_near_duplicates_equal_a_plain_loop(seed, count, threshold):
    features = np.random.default_rng(seed).normal(size=(count, 3)).astype(np.float32)
    features /= np.linalg.norm(features, axis=1, keepdims=True)
    kept: list[int] = []
    for row in range(count):
        if all(features[row] @ features[other] < threshold for other in kept):
            kept.append(row)
    block, selection.BLOCK = selection.BLOCK, 7
    try:
        found = near_duplicates(features, threshold)
        near = near_any(features, features[kept], threshold)
    finally:
        selection.BLOCK = block
    assert np.flatnonzero(~found).tolist() == kept
    assert near.all()

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip2.evaluation.ranking import ROWS, nearest, rank


def _plain(scores: list[float], right: set[int]) -> tuple[int, int]:
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return min(order.index(index) for index in right), order[0]


@settings(deadline=None)  # a slow machine must not fail the test
@given(st.data())
def test_rank_is_the_position_in_a_stable_sort(data: st.DataObject) -> None:
    """With one-hot candidates the scores equal the queries, and small integers produce ties."""
    width = data.draw(st.integers(1, 6))
    scores = data.draw(st.lists(st.lists(st.integers(-2, 2), min_size=width, max_size=width), min_size=1, max_size=5))
    to = data.draw(st.lists(st.integers(0, 2), min_size=width, max_size=width))
    belongs = [data.draw(st.sampled_from(to)) for _ in scores]
    ranks, first = rank(torch.tensor(scores).float(), torch.eye(width), torch.tensor(belongs), torch.tensor(to))
    for row, wanted, place, top in zip(scores, belongs, ranks.tolist(), first.tolist(), strict=True):
        assert (place, top) == _plain(row, {index for index, owner in enumerate(to) if owner == wanted})


def test_ranks_of_more_queries_than_one_chunk() -> None:
    torch.manual_seed(0)
    queries, candidates = torch.randn(ROWS * 2 + 3, 8), torch.randn(30, 8)
    belongs = torch.randint(0, 10, (len(queries),))
    to = torch.arange(30) % 10
    ranks, first = rank(queries, candidates, belongs, to)
    scores = (queries @ candidates.T).tolist()
    for index in (0, ROWS - 1, ROWS, 2 * ROWS + 2):
        right = {column for column in range(30) if column % 10 == belongs[index]}
        assert (ranks[index], first[index]) == _plain(scores[index], right)


def test_identical_features_score_at_chance_level() -> None:
    same = torch.ones(40, 4) / 2
    ranks, _ = rank(same, same[:10], torch.arange(40) % 10, torch.arange(10))
    assert float((ranks < 1).double().mean()) == 0.1 and float((ranks < 5).double().mean()) == 0.5


def test_nearest_candidates_are_sorted_by_similarity() -> None:
    torch.manual_seed(0)
    queries, candidates = torch.randn(ROWS + 3, 8), torch.randn(30, 8)
    candidates[7] = candidates[3]
    found = nearest(queries, candidates, 5)
    order = (queries @ candidates.T).argsort(dim=1, descending=True, stable=True)
    inside = [row for row in range(len(queries)) if not {3, 7} & {int(order[row, 4]), int(order[row, 5])}]
    assert len(inside) > 200 and torch.equal(found[inside], order[inside, :5])
    assert nearest(queries, candidates[:2], 5).shape == (ROWS + 3, 2)

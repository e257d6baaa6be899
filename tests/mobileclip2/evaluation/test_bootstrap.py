from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from mobileclip2.evaluation import bootstrap
from mobileclip2.evaluation.bootstrap import draws, interval
from mobileclip2.evaluation.metrics import CLASSIFICATION, RETRIEVAL, metrics_of

ACC1 = CLASSIFICATION["acc1"]


def answers(right: np.ndarray, targets: np.ndarray | None = None) -> pa.Table:
    targets = np.zeros(len(right), int) if targets is None else targets
    keys = [f"s{number}" for number in range(len(right))]
    return pa.table({"key": keys, "target": targets, "predicted": targets + ~right, "rank": (~right).astype(int)})


def test_intervals_have_the_stated_coverage() -> None:
    draw = np.random.default_rng(0)
    covered = 0
    for experiment in range(400):
        table = answers(draw.random(200) < 0.3)
        low, high = interval(draws(ACC1, [table], seed=(experiment,), resamples=1000)[0], 0.95)
        covered += low <= 0.3 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_intervals_of_paired_differences_have_the_stated_coverage() -> None:
    draw = np.random.default_rng(1)
    covered = 0
    for experiment in range(400):
        hard = draw.random(200)  # the same images are hard for both models
        one, other = answers(hard + 0.2 * draw.random(200) < 0.5), answers(hard + 0.2 * draw.random(200) < 0.6)
        values = draws(ACC1, [one, other], seed=(experiment,), resamples=1000)
        low, high = interval(values[0] - values[1], 0.95)
        covered += low <= -0.1 <= high
    assert 0.91 <= covered / 400 <= 0.98


def test_pairing_reduces_the_deviation_of_differences() -> None:
    draw = np.random.default_rng(2)
    right = draw.random(500) < 0.5
    better = right | (draw.random(500) < 0.02)
    paired = draws(ACC1, [answers(right), answers(better)])
    apart = draws(ACC1, [answers(right)])[0] - draws(ACC1, [answers(better)], seed=(1,))[0]
    assert np.std(paired[0] - paired[1]) < 0.3 * np.std(apart)


@pytest.mark.parametrize("name", ["acc1", "mean_per_class_recall", "F1-macro_all"])
def test_draws_match_resampling_row_by_row(name: str) -> None:
    draw = np.random.default_rng(3)
    targets = draw.integers(0, 4, 60)
    predicted = np.where(draw.random(60) < 0.6, targets, draw.integers(0, 5, 60))
    ranks = (predicted != targets).astype(int)
    table = pa.table({"key": [f"s{n}" for n in range(60)], "target": targets, "predicted": predicted, "rank": ranks})
    metric = metrics_of("wilds/iwildcam", table)[name]
    values = draws(metric, [table], resamples=4000)[0]
    plain = [metric.of(table.take(draw.integers(0, 60, 60))) for _ in range(2000)]
    assert values.mean() == pytest.approx(np.mean(plain), abs=0.006)
    assert values.std() == pytest.approx(np.std(plain), rel=0.1)


def test_captions_of_one_image_are_resampled_together() -> None:
    draw = np.random.default_rng(4)
    hits = draw.random(300) < 0.5
    ranks = [int(not hit) for hit in hits]
    keys = [f"s{number}" for number in range(300)]
    table = pa.table(
        {"query": ["text"] * 1500 + ["image"] * 300, "key": keys * 6, "rank": ranks * 6}
    )  # five captions per image, which are either all found or all missed
    values = draws(RETRIEVAL["image_retrieval_recall@1"], [table])[0]
    assert values.std() == pytest.approx(np.sqrt(0.25 / 300), rel=0.1)


def test_intervals_repeat_with_equal_seeds_and_are_close_with_others() -> None:
    table = answers(np.random.default_rng(5).random(400) < 0.4)
    first, again, other = (draws(ACC1, [table], seed=(seed,))[0] for seed in (0, 0, 1))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert interval(first, 0.95) == pytest.approx(interval(other, 0.95), abs=0.006)


def test_draws_do_not_depend_on_the_chunk_size(monkeypatch: pytest.MonkeyPatch) -> None:
    table = answers(np.random.default_rng(6).random(50) < 0.4)
    whole = draws(ACC1, [table], resamples=100)
    monkeypatch.setattr(bootstrap, "CHUNK", 14)  # seven resamples of two distinct rows in each chunk
    assert np.array_equal(draws(ACC1, [table], resamples=100), whole)


def test_resamples_without_a_value_are_left_out_of_the_interval() -> None:
    values = np.concatenate([np.linspace(0, 1, 101), np.full(50, np.nan)])
    assert interval(values, 0.9) == pytest.approx((0.05, 0.95))

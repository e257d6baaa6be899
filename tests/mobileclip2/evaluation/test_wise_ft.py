from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobileclip2.config.student import Pick
from mobileclip2.errors import UserError
from mobileclip2.evaluation.wise_ft import Point, pick, read_curve, write_curve

IMAGES = 200
COUNTS = st.tuples(*[st.integers(0, IMAGES)] * 3)
"""Numbers of correct answers on the student's own set and on two general sets."""


def curve_of(counts: list[tuple[int, ...]]) -> list[Point]:
    names = ("own", "one", "two")
    return [
        Point(number / (len(counts) - 1), {n: {"main_metric": c / IMAGES} for n, c in zip(names, each, strict=True)})
        for number, each in enumerate(counts)
    ]


@given(st.lists(COUNTS, min_size=2, max_size=11), st.integers(0, IMAGES), st.sampled_from([("one",), ("one", "two")]))
def test_pick_returns_the_best_point_within_the_tolerance(counts, tolerated, of):
    """Compare numbers of images, which are exact."""
    curve = curve_of(counts)
    picked = pick(curve, Pick(best="own", of=of, within=tolerated / IMAGES))
    lost = [max(counts[0][place] - each[place] for place in range(1, len(of) + 1)) for each in counts]
    number = curve.index(picked)
    assert lost[number] <= tolerated
    for other, each in enumerate(counts):
        if lost[other] <= tolerated:
            assert each[0] < counts[number][0] or (each[0] == counts[number][0] and other >= number)


def test_a_loss_equal_to_the_tolerance_is_accepted():
    assert 0.5 - 0.49 > 0.01  # in floating point
    curve = [Point(0, {"own": {"main_metric": 0.1}, "one": {"main_metric": 0.5}})]
    curve.append(Point(1, {"own": {"main_metric": 0.2}, "one": {"main_metric": 0.49}}))
    assert pick(curve, Pick(best="own", of=("one",), within=0.01)) is curve[1]
    assert pick(curve, Pick(best="own", of=("one",), within=0.009)) is curve[0]


def test_a_gain_on_one_general_set_does_not_offset_another():
    curve = curve_of([(10, 100, 100), (50, 150, 90), (40, 100, 98)])
    assert pick(curve, Pick(best="own", of=("one", "two"), within=0.02)) is curve[2]


def test_an_undefined_main_metric_is_reported():
    curve = [Point(0, {"own": {"main_metric": None}, "one": {"main_metric": 0.5}})]
    with pytest.raises(UserError, match="'own': its main metric is not defined for weight 0; name another set"):
        pick(curve, Pick(best="own", of=("one",)))


def test_a_curve_round_trips_through_its_file(tmp_path):
    path = tmp_path / "curve.jsonl"
    assert read_curve(path) == []
    curve = [Point(0.0, {"a": {"acc1": 1 / 3, "acc5": None}}), Point(1.0, {"a": {"acc1": 0.5, "acc5": None}})]
    write_curve(path, curve)
    assert read_curve(path) == curve
    assert (
        path.read_text().splitlines()[0]
        == '{"weight": 0.0, "metrics": {"a": {"acc1": 0.3333333333333333, "acc5": null}}}'
    )

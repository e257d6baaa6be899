from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip2.evaluation.results import Result, with_main
from mobileclip2.report.palette import VARIABLES
from mobileclip2.report.plots import (
    accuracy_figure,
    count,
    loss_figure,
    metric_figure,
    percent,
    png,
    score_figure,
    spread,
    svg,
)

RECORDS = [{"step": float(step), "loss": 5 / step} for step in range(1, 60)]


@settings(deadline=None)  # a slow machine must not fail the test
@given(st.lists(st.floats(-1e3, 1e3), max_size=9))
def test_labels_keep_their_order_and_a_minimum_distance(places: list[float]) -> None:
    moved = spread(places, 12)
    order = sorted(range(len(places)), key=lambda index: places[index])
    for lower, upper in pairwise(order):
        assert moved[upper] - moved[lower] >= 12 - 1e-6
    for place, other in zip(places, moved, strict=True):
        assert abs(place - other) <= 12 * len(places)


def test_labels_with_enough_room_do_not_move() -> None:
    assert spread([30, 0, 15], 12) == [30, 0, 15]


def test_same_numbers_same_bytes() -> None:
    assert png(loss_figure(RECORDS, "a")) == png(loss_figure(RECORDS, "a"))
    assert svg(loss_figure(RECORDS, "a"), "x") == svg(loss_figure(RECORDS, "a"), "x")


def test_svg_uses_the_color_variables_of_the_page() -> None:
    text = svg(accuracy_figure({"a": [(10, 0.1), (20, 0.3)]}, title="t", levels={"teacher": 0.5}), "fig")
    ET.fromstring(text.replace("xlink:", ""))
    for color, variable in VARIABLES.items():
        assert text.count(color) == text.count(f"var({variable}, {color})")
    assert "var(--series-0, #0072b2)" in text and "var(--ink" in text
    assert "http" not in text and ' id="fig-' in text
    assert text.count(' id="') == text.count(' id="fig-')


def test_text_in_svg_is_escaped() -> None:
    text = svg(
        metric_figure({"<script>alert(1)</script> $x_1$": [Result("a", "a", with_main("a", {"acc1": 0.5}))]}), "f"
    )
    assert "<script" not in text and "&lt;script&gt;" in text and "$x_1$" in text


def test_long_trainings_are_downsampled() -> None:
    long = [{"step": float(step), "loss": 1.0 + (step % 2)} for step in range(200_000)]
    assert len(svg(loss_figure(long), "x")) < 100_000


@pytest.mark.parametrize("records", [[], [{"step": 1.0}], [{"step": 1.0, "loss": float("nan")}], RECORDS[:1]])
def test_short_or_empty_trainings(records: list[dict[str, float]]) -> None:
    assert png(loss_figure(records)).startswith(b"\x89PNG")


def test_models_without_a_metric_have_no_bar() -> None:
    metrics = {"a": with_main("x", {"acc1": 0.51, "acc5": None}), "b": with_main("y", {"acc5": 0.25})}
    text = svg(metric_figure({name: [Result(name, name, values)] for name, values in metrics.items()}), "x")
    assert "51.0 %" in text and "25.0 %" not in text


@pytest.mark.parametrize(("counts", "cut"), [([], None), ([0, 0], 0.2), ([0, 4, 0, 0], None), ([1] * 1000, 0.1)])
def test_scores_have_at_most_fifty_bars(counts: list[int], cut: float | None) -> None:
    figure = score_figure(counts, cut)
    bars = figure.axes[0].patches
    assert len(bars) <= 50 and sum(bar.get_height() for bar in bars) == sum(counts)
    gray = [bar for bar in bars if bar.get_facecolor() != bars[-1].get_facecolor()]
    assert all(cut is not None and bar.get_x() < cut for bar in gray) and bool(gray) == (len(counts) > 4)
    assert png(figure).startswith(b"\x89PNG")


def test_counts() -> None:
    assert [count(value) for value in (7, 38_400, 12_800_000, 1.9e9)] == ["7", "38.4 k", "12.8 M", "1.9 B"]


def test_shares_are_percentages() -> None:
    assert (percent(0.4725), percent(None)) == ("47.2", "–")


def test_importing_does_not_load_matplotlib() -> None:
    code = "import sys, mobileclip2.report.pictures; sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

from __future__ import annotations

from collections.abc import Callable

import pytest

from assets.student import interpolation_metadata, student
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.wise_ft import Point
from mobileclip2.report import sheets


def test_a_student_has_no_partitions(demo: Pipeline) -> None:
    assert student(demo.profile, demo.graph["student/plain"]).partitions_def is None


def test_an_interpolated_student_shows_its_points(
    materialized: Callable[..., Pipeline],
    png_of: Callable[[object], str],
    shown_at_once: Callable[[object], bool],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    curve = [Point(weight, {"shapes": {"main_metric": weight / 2}}) for weight in (0.0, 0.5, 1.0)]
    monkeypatch.setattr(sheets, "between_curve", lambda *_: (curve, 0.5))
    pipeline = materialized("student/plain")
    entries = interpolation_metadata(pipeline, pipeline.materialize("student/plain"))
    assert entries["picked_weight"] == 0.5
    assert [record.data for record in entries["points"].records] == [
        {"weight": weight, "set": "shapes", "main_metric": weight / 2} for weight in (0.0, 0.5, 1.0)
    ]
    assert png_of(entries["curve"]) == "![interpolated weights](" and shown_at_once(entries["curve_preview"])

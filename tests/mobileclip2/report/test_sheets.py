from __future__ import annotations

from collections.abc import Callable

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.report.sheets import ROWS, columns, evaluation_results, rows, training_curve, training_records
from tests.tiny import CLASSES


def test_rows_come_with_their_views_and_captions(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("augmentations", "synthetic_captions/first")
    found = list(rows(pipeline, "g00", views=True, captioners=("first",)))
    assert [row.key for row in found][:3] == ["000000000", "000000002", "000000003"] and len(found) == 23 > ROWS
    first = found[0]
    assert first.caption == f"a {CLASSES[0]}" and first.image.size == (48, 48)
    assert [view.size for view in first.views] == [(96, 96)] * 2
    assert [name for name, _ in first.synthetic] == ["first", "first"]


def test_a_training_has_a_record_for_each_step(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("student/plain", "teacher/wide")
    records = training_records(pipeline, "student/plain")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    last, picture = training_curve(pipeline, "student/plain")
    assert last["loss"] == records[-1]["loss"] and picture.sheet.startswith("![loss](data:image/png;base64,")
    assert training_records(pipeline, "teacher/wide") == []


def test_only_defined_metrics_are_shown(materialized: Callable[..., Pipeline]) -> None:
    metrics, picture = evaluation_results(materialized("evaluation/wide"), "wide", "shapes")
    assert metrics["main_metric"] == metrics["acc1"] and None not in metrics.values()
    assert picture.startswith("![metrics](data:image/png;base64,")


def test_a_stage_with_sidecars_has_columns(materialized):
    pipeline = materialized("synthetic_captions/first")
    found = columns(pipeline, pipeline.materialize("synthetic_captions/first", "g00"))
    assert found == [("key", "string", False), ("caption", "string", False)]


def test_a_model_has_no_columns(materialized):
    pipeline = materialized("teacher/wide")
    assert columns(pipeline, pipeline.materialize("teacher/wide")) == []

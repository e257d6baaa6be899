from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.latency import Latency, Tower
from mobileclip2.export.parity import Parity
from mobileclip2.report import gather_student
from mobileclip2.stages.model_card import Exported
from pipelines import student
from pipelines.student import export_and_show, latency, student_report

LATENCY = Latency("ACME 9000", 32, Tower(450_000, 1.5, 2.5, 3.5, 99, 640.0), Tower(6_540_000, 0.4, 1, 2, 9, 77.0))


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the latency measurement, which takes seconds."""
    monkeypatch.setattr(student, "latency_of", lambda pipeline, name: LATENCY)
    monkeypatch.setattr(gather_student, "latency_of", lambda pipeline, name: LATENCY)


def test_the_report_is_written_and_summarized(
    materialized: Callable[..., Pipeline], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "plain.html"
    student_report(materialized("evaluation/plain"), "plain", page)
    printed = capsys.readouterr().out
    assert "plain, with 95% intervals" in printed and f"report: {page}" in printed.replace("\n", "")
    assert "shapes" in printed and "450,000" in printed
    assert "<title>plain · MobileCLIP2 student</title>" in page.read_text()


def test_latencies_are_printed_as_a_table_or_as_json(
    materialized: Callable[..., Pipeline], capsys: pytest.CaptureFixture[str]
) -> None:
    latency(materialized(), "plain", as_json=False)
    table = capsys.readouterr().out
    assert "plain on ACME 9000" in table and "6,540,000" in table and "640" in table
    latency(materialized(), "plain", as_json=True)
    printed = json.loads(capsys.readouterr().out)
    assert printed["student"] == "plain" and printed["image"]["p50"] == 1.5


def test_the_table_has_a_row_for_each_tower_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = [
        Parity("image", "fp32", 1000, 1000, 0.999999, 0.999998, 0.999997),
        Parity("text", "int8", 1000, 998, 0.99, 0.98, 0.97),
    ]
    asked: list[object] = []
    image_text: Any = None

    def written(pipeline: Pipeline, key: str, to: Path, kind: str, *, int8: bool) -> Exported:
        asked.extend([key, to, kind, int8])
        return Exported(to, kind, int8, image_text, measured, {"image.onnx": 12, "text.onnx": 34}, None)

    monkeypatch.setattr(student, "export", written)
    export_and_show(None, "student/s0", tmp_path, "onnx", int8=True)  # type: ignore[arg-type]
    assert asked == ["student/s0", tmp_path, "onnx", True]
    heading, image, text, files = capsys.readouterr().out.splitlines()
    assert heading.split() == [
        "tower",
        "precision",
        "compared",
        "same",
        "input",
        "mean",
        "cosine",
        "1st",
        "percentile",
        "lowest",
    ]
    assert image.split() == ["image", "fp32", "1,000", "1,000", "0.999999", "0.999998", "0.999997"]
    assert text.split() == ["text", "int8", "1,000", "998", "0.990000", "0.980000", "0.970000"]
    assert files == f"{tmp_path}: image.onnx, text.onnx, README.md"

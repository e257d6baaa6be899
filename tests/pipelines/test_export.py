from __future__ import annotations

from pathlib import Path

import pytest
from pipelines.export import export_and_show

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.export.parity import Parity
from mobileclip2.stages.export import Export
from pipelines import export


def test_the_table_has_a_row_for_each_tower_and_precision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = [
        Parity("image", "fp32", 1000, 1000, 0.999999, 0.999998, 0.999997),
        Parity("text", "int8", 1000, 998, 0.99, 0.98, 0.97),
    ]
    asked: list[object] = []

    def written(pipeline: Pipeline, key: str, to: Path, kind: str, *, int8: bool) -> Export:
        asked.extend([key, to, kind, int8])
        return Export(to, measured, {"image.onnx": 12, "text.onnx": 34})

    monkeypatch.setattr(export, "export", written)
    assert export_and_show(None, "student/s0", tmp_path, "onnx", int8=True, width=200) == 0  # type: ignore[arg-type]
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

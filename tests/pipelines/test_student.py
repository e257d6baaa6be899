from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.latency import Latency, Tower
from mobileclip2.report import gather_student
from pipelines import student
from pipelines.student import latency, student_report

LATENCY = Latency("ACME 9000", 32, Tower(450_000, 1.5, 2.5, 3.5, 99, 640.0), Tower(6_540_000, 0.4, 1, 2, 9, 77.0))


@pytest.fixture(autouse=True)
def _measured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace the measurement, which takes seconds."""
    monkeypatch.setattr(student, "latency_of", lambda pipeline, name: LATENCY)
    monkeypatch.setattr(gather_student, "latency_of", lambda pipeline, name: LATENCY)


def test_the_report_is_written_and_summarized(
    materialized: Callable[..., Pipeline], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "plain.html"
    assert student_report(materialized("evaluation/plain"), "plain", page) == 0
    printed = capsys.readouterr().out
    assert "plain, with 95% intervals" in printed and f"report: {page}" in printed.replace("\n", "")
    assert "shapes" in printed and "450,000" in printed
    assert "<title>plain · MobileCLIP2 student</title>" in page.read_text()


def test_latencies_are_printed_as_a_table_or_as_json(
    materialized: Callable[..., Pipeline], capsys: pytest.CaptureFixture[str]
) -> None:
    assert latency(materialized(), "plain", as_json=False) == 0
    table = capsys.readouterr().out
    assert "plain on ACME 9000" in table and "6,540,000" in table and "640" in table
    assert latency(materialized(), "plain", as_json=True) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["student"] == "plain" and printed["image"]["p50"] == 1.5

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.evaluation.latency import Latency, Tower
from mobileclip2.report import gather_student as module
from mobileclip2.report.gather_student import check_student, gather_student, latency_of
from tests.tiny import CLASSES


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Latency:
    """Return the latency of every model. The measurement takes seconds and is tested with the evaluation."""
    tower = Tower(1000, 1.0, 2.0, 3.0, 9, 100.0)
    latency = Latency("machine", 32, tower, tower)

    def measure(model: object, device: torch.device) -> Latency:
        return latency

    monkeypatch.setattr(module, "measure_latency", measure)
    return latency


def test_a_report_has_results_examples_and_latencies(materialized: Callable[..., Pipeline], measured: Latency) -> None:
    pipeline = materialized("evaluation/pupil", "evaluation/plain")
    report = gather_student(pipeline, "plain")
    assert list(report.latencies.items()) == [("plain", measured), ("pupil", measured)]
    assert {"acc1", "acc5"} <= {row.metric for row in report.rows} and report.axis == "shapes"
    assert set(report.mains) == {"plain", "pupil"} and report.samples_seen == 32
    (examples,) = report.sets
    assert examples.samples == len(CLASSES) and list(examples.classnames) == list(CLASSES)
    assert len(examples.failures) == min(examples.wrong, module.FAILURES) > 0
    assert report.training.records and report.note == "trained on the raw pairs"


def test_the_latency_needs_a_trained_student(tiny: Path, measured: Latency) -> None:
    with pytest.raises(UserError, match="student/plain: not materialized yet"):
        latency_of(Pipeline(load(tiny)), "plain")


def test_an_unknown_student_is_named_with_the_known_ones(materialized: Callable[..., Pipeline]) -> None:
    with pytest.raises(UserError, match="'wide': the profile has no such student; it has pupil, plain"):
        check_student(materialized(), "wide")


def test_a_profile_without_evaluation_sets_has_no_report(tiny: Path) -> None:
    text = tiny.read_text().replace("    evaluate_on: [shapes]\n", "")
    tiny.write_text(text[: text.index("evaluation:\n")])
    with pytest.raises(UserError, match="report pupil: the profile has no evaluation sets"):
        gather_student(Pipeline(load(tiny)), "pupil")

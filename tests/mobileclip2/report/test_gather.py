from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.report.gather import SAMPLES, evaluated_models, gather, store_report
from tests.tiny import BAD_KEY

EVALUATED = ("evaluation/wide", "evaluation/pupil", "evaluation/plain")


@pytest.fixture
def pipeline(materialized: Callable[..., Pipeline]) -> Pipeline:
    return materialized(*EVALUATED)


def test_models_have_the_order_of_the_profile_and_a_note_of_origin(pipeline: Pipeline) -> None:
    models = {model.name: model for model in evaluated_models(pipeline) if model.name != "narrow"}
    assert [(model.name, model.kind, model.note) for model in models.values()] == [
        ("wide", "teacher", "teacher"),
        ("pupil", "student", "distilled from the reinforced dataset"),
        ("plain", "student", "trained on the raw pairs"),
    ]
    assert models["pupil"].samples_seen == 32


def test_the_report_has_samples_skips_and_every_stage(pipeline: Pipeline) -> None:
    report = gather(pipeline)
    assert len(report.samples) == SAMPLES and len(report.samples[0].views) == 2
    assert (BAD_KEY, "truncated-image") in [(skip.key, skip.reason) for skip in report.skips]
    assert len(report.stages) == len(pipeline.graph)
    assert {training.name for training in report.trainings} == {"pupil", "plain", "first", "second"}
    assert report.profile == pipeline.profile.text and report.software["torch"]


def test_a_distilled_student_is_compared_with_the_plain_one(pipeline: Pipeline) -> None:
    (highlight,) = gather(pipeline).highlights
    assert highlight.label == "pupil against plain on shapes, at equal steps"
    assert highlight.value.endswith(" points") and highlight.value[0] in "+-"


def test_the_report_is_written_to_the_store(materialized):
    pipeline = materialized("evaluation/wide")
    written = Path(store_report(pipeline))
    assert written == Path(pipeline.storage.url) / "reports" / "tiny.html"
    assert "wide" in written.read_text() and "<html" in written.read_text()

"""A gallery compares the first teacher, a student and the baseline of a profile."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.report.gather import evaluated_models
from mobileclip2.report.gather_gallery import gather_gallery


@pytest.fixture
def pipeline(materialized: Callable[..., Pipeline]) -> Pipeline:
    return materialized("evaluation/wide", "evaluation/pupil", "evaluation/plain")


def test_the_models_are_teacher_student_and_baseline(pipeline: Pipeline) -> None:
    models = [model for model in evaluated_models(pipeline) if model.name != "narrow"]
    gallery = gather_gallery(pipeline, models)
    assert gallery and gallery.models == {"wide": "teacher", "pupil": "student", "plain": "baseline"}
    (shapes,) = gallery.sets
    assert shapes.name == "shapes" and shapes.confused
    assert set(shapes.confused[0].counts) == {"wide", "pupil", "plain"}
    own = gather_gallery(pipeline, models, "plain")
    assert own and own.student == "plain" and own.models == {"wide": "teacher", "plain": "student"}


def test_without_an_evaluated_student_there_is_no_gallery(pipeline: Pipeline) -> None:
    assert gather_gallery(pipeline, [model for model in evaluated_models(pipeline) if model.kind == "teacher"]) is None

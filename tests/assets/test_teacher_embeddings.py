from __future__ import annotations

from collections.abc import Callable

from assets.teacher_embeddings import embeddings_are_sound, teacher_embeddings
from mobileclip2.engine.pipeline import Pipeline


def test_embeddings_are_grouped_by_their_teacher_and_have_a_check(demo: Pipeline) -> None:
    asset = teacher_embeddings(demo.profile, demo.graph["teacher_embeddings/lite0/text"])
    assert [spec.group_name for spec in asset.specs] == ["embeddings_lite0"]
    assert [spec.name for spec in asset.check_specs] == ["embeddings_are_sound"]


def test_the_embeddings_of_random_teachers_are_sound(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("teacher_embeddings/wide/image", "teacher_embeddings/wide/text")
    for kind in ("image", "text"):
        verdict = embeddings_are_sound(pipeline, pipeline.materialize(f"teacher_embeddings/wide/{kind}", "g00"))
        assert verdict.passed and verdict.numbers["compared"]

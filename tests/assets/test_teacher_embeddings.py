from __future__ import annotations

from collections.abc import Callable

from assets.keys import library_key
from assets.teacher_embeddings import embeddings_are_sound, teacher_embeddings
from mobileclip2.engine.pipeline import Pipeline


def test_embeddings_are_grouped_by_their_teacher(demo: Pipeline) -> None:
    specs = [spec for asset in teacher_embeddings(demo.profile, demo.graph) for spec in asset.specs]
    kinds = ["image", "text", *demo.profile.dataset_captioners]
    assert {library_key(spec.key): spec.group_name for spec in specs} == {
        f"teacher_embeddings/{teacher.name}/{kind}": f"embeddings_{teacher.name}"
        for teacher in demo.profile.teachers
        for kind in kinds
    }


def test_the_embeddings_of_random_teachers_are_sound(materialized: Callable[..., Pipeline], demo: Pipeline) -> None:
    assets = teacher_embeddings(demo.profile, demo.graph)
    assert all([spec.name for spec in asset.check_specs] == ["embeddings_are_sound"] for asset in assets)
    pipeline = materialized("teacher_embeddings/wide/image", "teacher_embeddings/wide/text")
    for kind in ("image", "text"):
        verdict = embeddings_are_sound(pipeline, pipeline.materialize(f"teacher_embeddings/wide/{kind}", "g00"))
        assert verdict.passed and verdict.numbers["compared"]

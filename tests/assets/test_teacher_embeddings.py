from __future__ import annotations

from assets.keys import library_key
from assets.teacher_embeddings import teacher_embeddings
from mobileclip2.engine.pipeline import Pipeline


def test_embeddings_are_grouped_by_their_teacher(demo: Pipeline) -> None:
    specs = [spec for asset in teacher_embeddings(demo.profile, demo.graph) for spec in asset.specs]
    kinds = ["image", "text", *demo.profile.dataset_captioners]
    assert {library_key(spec.key): spec.group_name for spec in specs} == {
        f"teacher_embeddings/{teacher.name}/{kind}": f"embeddings_{teacher.name}"
        for teacher in demo.profile.teachers
        for kind in kinds
    }

from __future__ import annotations

from assets.keys import library_key
from assets.teacher import teachers
from mobileclip2.engine.pipeline import Pipeline


def test_each_teacher_has_an_asset_without_partitions(demo: Pipeline) -> None:
    assets = teachers(demo.profile, demo.graph)
    assert [library_key(asset.key) for asset in assets] == [
        f"teacher/{teacher.name}" for teacher in demo.profile.teachers
    ]
    assert assets and not any(asset.partitions_def for asset in assets)

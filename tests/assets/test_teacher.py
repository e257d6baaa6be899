from __future__ import annotations

from assets.teacher import teacher
from mobileclip2.engine.pipeline import Pipeline


def test_a_teacher_has_no_partitions(demo: Pipeline) -> None:
    assert teacher(demo.profile, demo.graph["teacher/lite0"]).partitions_def is None

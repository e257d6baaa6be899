"""The order in which assets and groups become ready."""

from __future__ import annotations

from pathlib import Path

from mobileclip2.asset_key import AssetKey, Partition
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.schedule import Schedule


def schedule_of(profile: Path) -> Schedule:
    pipeline = Pipeline(load(profile))
    return Schedule(pipeline, list(pipeline.graph))


def drain(schedule: Schedule) -> list[str]:
    found = []
    while partition := schedule.next():
        found.append(str(partition))
    return found


def test_roots_are_ready_at_once_in_topological_order(tiny: Path) -> None:
    roots = drain(schedule_of(tiny))
    assert roots == ["raw_shards [g00]", "raw_shards [g01]", "caption_corpus/clean", "teacher/wide", "teacher/narrow"]


def test_sequential_runs_follow_the_topological_order(tiny: Path) -> None:
    pipeline = Pipeline(load(tiny))
    schedule = schedule_of(tiny)
    everything = list(schedule.pending)
    found = []
    while partition := schedule.next():
        found.append(partition)
        schedule.finish(partition)
    assert found == everything == [Partition(asset.key, group) for asset, group in pipeline.stale()]


def test_a_model_becomes_ready_after_all_groups(tiny: Path) -> None:
    schedule = schedule_of(tiny)
    last = Partition(AssetKey("reinforced_dataset"), "g01")
    while partition := schedule.next():
        if partition != last:
            schedule.finish(partition)
    assert {partition.asset for partition in schedule.pending} == {"student/pupil", "evaluation/pupil"}
    schedule.finish(last)
    assert schedule.next() == Partition(AssetKey("student/pupil"), None)


def test_a_group_becomes_ready_after_its_upstream_group(smallest: Path) -> None:
    schedule = schedule_of(smallest)
    first = schedule.next()
    assert first == Partition(AssetKey("raw_shards"), "g00")
    drain(schedule)
    schedule.finish(first)
    assert drain(schedule) == ["augmentations [g00]"]


def test_pairs_downstream_of_a_failure_are_never_ready(tiny: Path) -> None:
    schedule = schedule_of(tiny)
    while partition := schedule.next():
        if partition.asset != "teacher/narrow":
            schedule.finish(partition)
    left = {partition.asset for partition in schedule.pending}
    assert left == {
        *(f"teacher_embeddings/narrow/{kind}" for kind in ("image", "text", "first", "second")),
        "reinforced_dataset",
        "student/pupil",
        "evaluation/pupil",
        "evaluation/narrow",
    }

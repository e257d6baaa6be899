from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline, TaskBatch
from mobileclip2.engine.stage import load_stage
from mobileclip2.errors import ComputeError
from mobileclip2.executors.shard_progress import ShardProgress
from mobileclip2.progress import Step


@pytest.fixture
def steps() -> list[Step]:
    return []


@pytest.fixture
def batch(tiny: Path, steps: list[Step]) -> TaskBatch:
    """Return the batch of the augmentations of a group with two shards."""
    pipeline = Pipeline(load(tiny))
    pipeline.materialize("raw_shards", "g00")
    asset = pipeline.graph["augmentations"]
    tasks = [task for part in asset.slices.values() if (task := pipeline.task_for(asset, part, "g00"))]
    return TaskBatch(pipeline, asset, "g00", tasks, steps.append)


def test_finished_shards_of_other_processes_are_counted(batch: TaskBatch, steps: list[Step]) -> None:
    stage = load_stage("augmentations")
    progress = ShardProgress(batch, stage)
    progress.report(pods=3)
    stage.compute(batch, batch.shards[:1])
    steps.clear()
    progress.report(pods=3)
    (step,) = steps
    assert (step.done, step.total, step.unit, step.numbers["pods"]) == (1, 2, "shards", 3)
    assert step.numbers["samples/s"] > 0


def test_shards_of_an_earlier_run_do_not_count_toward_the_rate(batch: TaskBatch, steps: list[Step]) -> None:
    stage = load_stage("augmentations")
    stage.compute(batch, batch.shards[:1])
    progress = ShardProgress(batch, stage)
    steps.clear()
    progress.report()
    assert [(step.done, step.numbers) for step in steps] == [(1, {})]


def test_missing_shards_are_an_error_even_if_no_worker_failed(batch: TaskBatch) -> None:
    stage = load_stage("augmentations")
    progress = ShardProgress(batch, stage)
    stage.compute(batch, batch.shards[:1])
    with pytest.raises(ComputeError, match=r"augmentations: pods ended without an error, but 1 shards are not in"):
        progress.expect_all("pods")
    stage.compute(batch, batch.shards)
    progress.expect_all("pods")

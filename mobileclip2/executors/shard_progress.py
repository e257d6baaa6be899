"""Track the shards that other processes compute."""

from __future__ import annotations

import time

from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.errors import ComputeError
from mobileclip2.executors.chunks import group_samples
from mobileclip2.executors.metrics import watch
from mobileclip2.progress import Step


class ShardProgress:
    """Reports the progress of a batch by counting its finished files in the store."""

    def __init__(self, batch: TaskBatch, stage: ShardStage) -> None:
        self.batch = batch
        self.stage = stage
        self.total = len(batch.shards)
        self.samples = group_samples(batch)
        self.finished_before = self._finished()
        self.counted_samples = 0.0
        self.started = time.monotonic()

    def _finished(self) -> int:
        return self.total - len(self.stage.unfinished(self.batch))

    def report(self, **numbers: float) -> None:
        """Report the finished shards, ``numbers`` and the samples per second."""
        finished = self._finished()
        seconds = time.monotonic() - self.started
        samples = max(0, finished - self.finished_before) / max(1, self.total) * self.samples
        if samples:
            numbers["samples/s"] = samples / seconds
        metrics = watch(self.batch)
        metrics.shards, metrics.shards_finished = self.total, finished
        metrics.samples += max(0.0, samples - self.counted_samples)
        self.counted_samples = max(self.counted_samples, samples)
        self.batch.progress(Step(finished, self.total, "shards", numbers))

    def expect_all(self, workers: str) -> None:
        """Check that every shard is finished.

        Raises:
            ComputeError: shards are missing although no worker failed.
        """
        unfinished = self.stage.unfinished(self.batch)
        if unfinished:
            raise ComputeError(
                f"{self.batch.asset.key}: {workers} ended without an error, but {len(unfinished)} shards are not in the store, "
                f"such as '{unfinished[0].id}'; let the workers write to {self.batch.pipeline.storage.url} and run again"
            )

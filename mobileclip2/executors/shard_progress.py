"""What the backends share that have shards computed by other processes: how far they are, and that all are there."""

from __future__ import annotations

import time

from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.errors import ComputeError
from mobileclip2.executors.chunks import group_samples
from mobileclip2.progress import Step


class ShardProgress:
    """Tells the progress of work that other processes do, from the files that they have finished."""

    def __init__(self, work: TaskBatch, stage: ShardStage) -> None:
        self.work = work
        self.stage = stage
        self.total = len(work.shards)
        self.samples = group_samples(work)
        self.begun = self._finished()
        self.started = time.monotonic()

    def _finished(self) -> int:
        return self.total - len(self.stage.unfinished(self.work))

    def look(self, **numbers: float) -> None:
        """Look at the store and report. ``numbers`` come first."""
        finished = self._finished()
        seconds = time.monotonic() - self.started
        if self.samples and finished > self.begun:
            numbers["samples/s"] = (finished - self.begun) / self.total * self.samples / seconds
        self.work.progress(Step(finished, self.total, "shards", numbers))

    def expect_all(self, place: str) -> None:
        """Check that every shard is there.

        Raises:
            ComputeError: shards are missing although their workers ended without an error.
        """
        unfinished = self.stage.unfinished(self.work)
        if unfinished:
            raise ComputeError(
                f"{self.work.asset.key}: {place} ended well, but {len(unfinished)} shards are not in the store, such as "
                f"'{unfinished[0].id}'; let the workers write to {self.work.pipeline.storage.url} and run again"
            )

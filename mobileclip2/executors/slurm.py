"""Run each task batch as a Slurm job and wait for it.

Slurm is the queue. A group is an array job with one task per chunk of its shards. Slurm starts the tasks again after a
preemption or a lost node. Files in the store show which shards are finished. The name of a job depends on its batch alone, so
that a restarted run finds the job of the killed one.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mobileclip2.config.slurm import Slurm
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.engine.stage import load_stage
from mobileclip2.engine.task import TaskSpec
from mobileclip2.errors import ComputeError, UserError
from mobileclip2.executors.chunks import count_chunks, seconds_a_shard
from mobileclip2.executors.commands import worker_command
from mobileclip2.executors.messages import StepReport, first_failure, parse_output
from mobileclip2.executors.metrics import watch
from mobileclip2.executors.shard_progress import ShardProgress
from mobileclip2.executors.slurm_client import JobTask, SlurmClient
from mobileclip2.executors.slurm_scripts import array_script, unsharded_script
from mobileclip2.store.storage import LocalStorage

logger = logging.getLogger(__name__)

POLL_SECONDS = 10.0
RETRIES = 3
"""further jobs after jobs that failed without progress; lost nodes and time limits do not count"""
LOG_BYTES = 1 << 16
"""end of a log that is read"""
REPORT_SECONDS = 600.0
"""time between two reports of why a job is pending"""
LOST = {"BOOT_FAIL", "NODE_FAIL", "PREEMPTED"}
"""states of tasks that Slurm ended for reasons of its own, and did not requeue"""
STUCK = {"BadConstraints", "JobHeldAdmin", "DependencyNeverSatisfied"}
"""reasons of a pending job that waits for a person"""
LAUNCH_FAILED = "launch_failed_requeued_held"
"""reason of a job that could not start on a node, for example because a killed controller lost its record"""
FOLDER = ".slurm"


class SlurmExecutor:
    """Runs task batches as jobs of a Slurm cluster."""

    def __init__(self, settings: Slurm) -> None:
        self.settings = settings
        self.client = SlurmClient(settings.ssh)
        self.poll = POLL_SECONDS

    def run(self, batch: TaskBatch) -> float:
        """Run a batch as jobs, commit its manifests and return the device-seconds."""
        spec = TaskSpec.of(batch)
        storage = batch.pipeline.storage
        spec.write(storage)
        stage = load_stage(batch.asset.stage)
        job = _Job(self, batch, spec)
        if isinstance(stage, ShardStage):
            job.run_shards(stage)
        else:
            job.run_unsharded()
        storage.delete(spec.key)  # kept after a failure, because a remaining task may still read it
        return job.device_seconds

    def log_folder(self, batch: TaskBatch, spec: TaskSpec) -> Path:
        """Return the folder of the logs of a batch, and create it.

        Raises:
            UserError: the store is a bucket and the profile names no folder.
        """
        if self.settings.folder:
            folder = Path(batch.profile.locate(self.settings.folder))
        elif isinstance(batch.pipeline.storage, LocalStorage):
            folder = batch.pipeline.storage.root / FOLDER
        else:
            raise UserError("compute.slurm.folder is missing; name a folder that the nodes share, for the logs")
        folder = folder.resolve() / spec.name
        folder.mkdir(parents=True, exist_ok=True)
        return folder


class _Job:
    """The jobs of one batch."""

    def __init__(self, executor: SlurmExecutor, batch: TaskBatch, spec: TaskSpec) -> None:
        self._client, self._slurm, self._poll = executor.client, executor.settings, executor.poll
        self._batch, self._spec = batch, spec
        untrained = batch.asset.stage == "student" and not batch.asset.trains
        self._stage = executor.settings.stage("evaluation" if untrained else batch.asset.stage)
        self._log = executor.log_folder(batch, spec)
        self._worker = worker_command(executor.settings.python or sys.executable, spec.store, spec.key)
        self._told = 0.0
        self._releases = 0
        self._nodes = self._stage.nodes if batch.asset.trains else 1
        self._metrics = watch(batch)
        self._metrics.gpus_per_pod = self._stage.gpus * self._nodes
        self.device_seconds = 0.0

    def run_shards(self, stage: ShardStage) -> None:
        """Run the chunks of a group as an array job, and failed chunks again."""
        batch, spec = self._batch, self._spec
        stage.discard_truncated(batch)
        progress = ShardProgress(batch, stage)
        limit = self._client.max_array_size()
        of = min(limit, count_chunks(progress.total, seconds_a_shard(batch), self._stage.tasks))
        job = self._adopt()
        if job is not None:
            of = int(self._client.comment(job).removeprefix("of="))
        chunks: Sequence[int] = range(of)
        retries = 0
        while True:
            unfinished = len(stage.unfinished(batch))
            if job is None:
                script = array_script(self._slurm, self._stage, spec.name, self._log, self._worker, of, chunks)
                job = self._client.submit(script, spec.name)
            ended = self._wait(job, lambda running: progress.report(tasks=running))
            job, failed = None, {index: task for index, task in ended.items() if task.state != "COMPLETED"}
            if not failed and (ended or not stage.unfinished(batch)):
                break
            chunks = sorted(failed) or range(of)
            retries = self._retry(failed, retries, len(stage.unfinished(batch)) < unfinished)
        progress.expect_all(f"the job {spec.name}")
        stage.commit(batch)

    def run_unsharded(self) -> None:
        """Run a training or another batch without shards, and continue it after a time limit or a lost node."""
        job, retries, steps = self._adopt(), 0, -1
        while not all(task.output.has("manifest.json") for task in self._batch.tasks):
            if job is None:
                name, trains = self._spec.name, self._batch.asset.trains
                script = unsharded_script(self._slurm, self._stage, name, self._log, self._worker, trains=trains)
                job = self._client.submit(script, name)
            ended = self._wait(job, lambda _: self._report_step())
            reached = self._report_step()
            job, failed = None, {index: task for index, task in ended.items() if task.state != "COMPLETED"}
            if not failed and ended:
                break
            retries = self._retry(failed, retries, reached > steps)
            steps = max(steps, reached)

    def _adopt(self) -> int | None:
        """Return the running job of an earlier run of this batch."""
        job = next(iter(self._client.active(self._spec.name)), None)
        if job is not None:
            logger.info("adopting the running job %s", job)
        return job

    def _wait(self, job: int, report: Callable[[int], object]) -> dict[int, JobTask]:
        """Wait for the end of a job, count its device-seconds and return its tasks by index.

        The tasks are empty if Slurm no longer knows the job. Cancel the job if the wait is interrupted.
        """
        polled, devices = time.monotonic(), max(1, self._stage.gpus) * self._nodes
        started: dict[int, float] = {}
        try:
            while True:
                tasks = self._client.tasks(job)
                now, running = time.monotonic(), sum(task.state == "RUNNING" for task in tasks)
                self._metrics.running(running, now - polled)
                self.device_seconds += running * devices * (now - polled)
                polled = now
                started = {
                    task.index: started.get(task.index, time.time()) for task in tasks if task.state == "RUNNING"
                }
                self._metrics.oldest_start = min(started.values(), default=None)
                report(running)
                for task in tasks:
                    self._check(job, task)
                if any(task.state == "PENDING" and task.reason == LAUNCH_FAILED for task in tasks):
                    self._release(job)
                if all(task.ended for task in tasks):
                    return {task.index: task for task in tasks}
                if not running:
                    self._tell_why(tasks, now)
                time.sleep(self._poll)
        except BaseException:
            self._client.cancel(job)
            raise
        finally:
            self._metrics.end()

    def _check(self, job: int, task: JobTask) -> None:
        """Raise the permanent error of a failed task, or an error if a person must release the job."""
        if task.state == "FAILED":
            failure = first_failure(parse_output(self._tail(task.index))[0])
            if failure and failure.permanent:
                raise UserError(failure.message)
        if task.state == "CANCELLED":
            raise ComputeError(
                f"{self._batch.asset.key}: the job {job} was cancelled; run again, finished shards are kept"
            )
        if task.state == "PENDING" and task.reason in STUCK:
            raise ComputeError(
                f"{self._batch.asset.key}: the job {job} cannot start: {task.reason}; check the resources of the stage under "
                "'compute.slurm' and run again"
            )

    def _release(self, job: int) -> None:
        """Release a job whose launch failed. Slurm holds such a job."""
        self._releases += 1
        if self._releases > RETRIES:
            raise ComputeError(
                f"{self._batch.asset.key}: the launch of the job {job} failed {self._releases} times; the cause is in the logs "
                "of slurmd on the nodes. Fix it and run again"
            )
        logger.warning("%s: the launch of the job %s failed; releasing it", self._batch.asset.key, job)
        self._client.release(job)

    def _tell_why(self, tasks: list[JobTask], now: float) -> None:
        reasons = sorted({task.reason for task in tasks if task.state == "PENDING"} - {"None"})
        if reasons and now - self._told > REPORT_SECONDS:
            self._told = now
            logger.info("%s: the job %s waits: %s", self._batch.asset.key, self._spec.name, ", ".join(reasons))

    def _retry(self, failed: dict[int, JobTask], retries: int, progressed: bool) -> int:
        """Return the number of jobs that failed without progress, or raise ``ComputeError`` if there were too many."""
        lost = all(task.state in LOST for task in failed.values())
        retries = 0 if progressed else retries + (not lost)
        if retries > RETRIES:
            index, task = next(iter(failed.items()), (0, JobTask(0, "UNKNOWN", "")))
            messages, printed = parse_output(self._tail(index))
            failure = first_failure(messages)
            lines = "\n    ".join([failure.message] if failure else printed[-15:] or ["its log is empty"])
            raise ComputeError(
                f"{self._batch.asset.key}: the job {self._spec.name} failed: {task.state} ({task.reason})\n    {lines}\n"
                f"  The log is {self._log / f'{index}.log'}. Finished shards and checkpoints are kept: fix the cause, run again"
            )
        states = ", ".join(sorted({task.state for task in failed.values()})) or "the job is gone"
        self._metrics.retries += max(1, len(failed))
        logger.warning("%s: submitting again: %s", self._batch.asset.key, states)
        return retries

    def _report_step(self) -> int:
        """Report the latest step that a training logged, and return its number, or -1."""
        steps = [message for message in parse_output(self._tail(0))[0] if isinstance(message, StepReport)]
        if not steps:
            return -1
        self._metrics.steps, self._metrics.steps_finished = steps[-1].step.total, steps[-1].step.done
        self._batch.progress(steps[-1].step)
        return steps[-1].step.done

    def _tail(self, index: int) -> str:
        path = self._log / f"{index}.log"
        try:
            with path.open("rb") as file:
                file.seek(max(0, path.stat().st_size - LOG_BYTES))
                return file.read().decode(errors="replace")
        except OSError:
            return ""

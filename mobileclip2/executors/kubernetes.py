"""Run each task batch as a Kubernetes Job and wait for it.

Kubernetes is the queue. A group is an Indexed Job with one completion per chunk of its shards. Kubernetes starts the pods and
restarts the chunk of a lost pod. Files in the store show which shards are finished. The name of a Job depends on its batch
alone, so that a restarted run finds the Job of the killed one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mobileclip2.config.compute import Kubernetes
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.engine.stage import load_stage
from mobileclip2.engine.task import TaskSpec
from mobileclip2.errors import ComputeError, UserError
from mobileclip2.executors.chunks import count_chunks, seconds_a_shard
from mobileclip2.executors.cluster import Cluster
from mobileclip2.executors.manifests import Manifest, chunks_job, rendezvous_service, unsharded_job
from mobileclip2.executors.messages import StepReport, first_failure, parse_output
from mobileclip2.executors.shard_progress import ShardProgress

logger = logging.getLogger(__name__)

POLL_SECONDS = 10.0

RESTARTS = 3
"""restarts of a training; restarts after lost nodes do not count"""


@dataclass
class _Failed(Exception):
    """A Job failed."""

    message: str
    permanent: bool
    """whether a worker reported a permanent error"""
    disrupted: bool
    """whether a pod was evicted or its node was lost"""


class KubernetesExecutor:
    """Runs task batches as Jobs in the cluster of this pod or of the kubeconfig."""

    def __init__(self, settings: Kubernetes, cluster: Cluster | None = None) -> None:
        self.settings = settings
        self.poll = POLL_SECONDS
        self._cluster = cluster

    @property
    def cluster(self) -> Cluster:
        """Return the connection. The first call connects."""
        if self._cluster is None:
            self._cluster = Cluster.connect(self.settings.namespace)
        return self._cluster

    def run(self, batch: TaskBatch) -> float:
        """Run a batch as a Job, commit its manifests and return the device-seconds.

        Raises:
            UserError: a worker reported a permanent error.
            ComputeError: a Job failed.
        """
        spec = TaskSpec.of(batch)
        storage = batch.pipeline.storage
        spec.write(storage)
        stage = load_stage(batch.asset.stage)
        try:
            seconds = (
                self._run_shards(batch, stage, spec)
                if isinstance(stage, ShardStage)
                else self._run_unsharded(batch, spec)
            )
        except _Failed as failed:
            if failed.permanent:
                raise UserError(failed.message) from None
            raise ComputeError(
                f"{batch.asset.key}: the Job {spec.name} failed: {failed.message}\n"
                "  Finished shards and checkpoints are kept; fix the cause and run again"
            ) from None
        storage.delete(spec.key)  # kept after a failure, because a remaining pod may still read it
        return seconds

    def _run_shards(self, batch: TaskBatch, stage: ShardStage, spec: TaskSpec) -> float:
        pods = self.settings.pods(batch.asset.stage)
        stage.discard_truncated(batch)
        progress = ShardProgress(batch, stage)
        chunks = count_chunks(progress.total, seconds_a_shard(batch), pods.pods)
        job = chunks_job(self.settings, batch.asset.stage, spec.name, spec.store, spec.key, chunks)
        seconds = self._wait(job, lambda running: progress.report(pods=running, GPUs=running * pods.gpus))
        progress.expect_all(f"the Job {spec.name}")
        stage.commit(batch)
        return seconds * max(1, pods.gpus)

    def _run_unsharded(self, batch: TaskBatch, spec: TaskSpec) -> float:
        # a student without training is at most evaluated, so it gets the pods of an evaluation
        untrained = batch.asset.stage == "student" and not batch.asset.trains
        stage, name = "evaluation" if untrained else batch.asset.stage, spec.name
        pods = self.settings.pods(stage)
        job = unsharded_job(self.settings, stage, name, spec.store, spec.key, trains=batch.asset.trains)
        distributed = job["spec"]["completions"] > 1
        if distributed:
            self.cluster.create_service(rendezvous_service(self.settings, stage, name))
        restarts = 0
        try:
            while True:
                try:
                    return self._wait(job, lambda _: self._report_step(batch, name)) * max(1, pods.gpus)
                except _Failed as failed:
                    restarts += not failed.disrupted
                    if failed.permanent or restarts > RESTARTS:
                        raise
                    logger.warning("%s: restarting from the last checkpoint: %s", batch.asset.key, failed.message)
        finally:
            if distributed:
                self._try_delete(lambda: self.cluster.delete_service(name))

    def _wait(self, manifest: Manifest, report: Callable[[int], None]) -> float:
        """Create a Job unless it exists, wait for its end, delete it and return the pod-seconds.

        Raises:
            _Failed: the Job failed.
            ComputeError: no pod could start, the Job was deleted, or the cluster is unreachable.
        """
        name = manifest["metadata"]["name"]
        self._create(manifest)
        seconds, progressed, succeeded = 0.0, time.monotonic(), 0
        polled = progressed
        try:
            while True:
                job = self.cluster.job(name)
                if job is None:
                    raise ComputeError(f"the Job {name} was deleted while it ran; run again, finished shards are kept")
                now, running = time.monotonic(), job.status.ready or 0
                seconds, polled = seconds + running * (now - polled), now
                report(running)
                if end := end_condition(job):
                    if end.type == "Complete":
                        return seconds
                    raise self._failed(name, end)
                if running or job.spec.suspend or (job.status.succeeded or 0) > succeeded:
                    progressed, succeeded = now, job.status.succeeded or 0
                elif now - progressed > self.settings.start_minutes * 60:
                    raise ComputeError(
                        f"the Job {name}: no pod could start in {self.settings.start_minutes:g} minutes"
                        f"{self._pending_reason(name)}; check the resources of the stage under 'compute.kubernetes' and run again"
                    )
                time.sleep(self.poll)
        finally:
            self._try_delete(lambda: self.cluster.delete_job(name))

    def _create(self, manifest: Manifest) -> None:
        """Create a Job, or adopt the running Job of an earlier run."""
        name = manifest["metadata"]["name"]
        deadline = time.monotonic() + self.cluster.patience
        while not self.cluster.create_job(manifest):
            job = self.cluster.job(name)
            if job is not None and not job.metadata.deletion_timestamp:
                if not end_condition(job):
                    logger.info("adopting the running Job %s", name)
                    return
                self.cluster.delete_job(name)
            if time.monotonic() > deadline:
                raise ComputeError(
                    f"the Job {name} is being deleted but still exists; see what blocks its deletion and run again"
                )
            time.sleep(min(self.poll, 1.0))

    def _try_delete(self, delete: Callable[[], None]) -> None:
        try:
            delete()
        except ComputeError as error:  # must not hide the outcome of the Job
            logger.warning("could not delete: %s", error)

    def _report_step(self, batch: TaskBatch, name: str) -> None:
        """Report the latest step that the first pod of a training logged."""
        for pod in self.cluster.pods(name, index=0):
            messages, _ = parse_output(self.cluster.log_tail(pod.metadata.name))
            for report in [message for message in messages if isinstance(message, StepReport)][-1:]:
                batch.progress(report.step)

    def _failed(self, name: str, end: Any) -> _Failed:
        failed = [pod for pod in self.cluster.pods(name) if pod.status.phase == "Failed"]
        evicted = [pod for pod in failed if _has_condition(pod, "DisruptionTarget")]
        details = ""
        for pod in [pod for pod in failed if pod not in evicted][:5]:
            messages, printed = parse_output(self.cluster.log_tail(pod.metadata.name))
            failure = first_failure(messages)
            if failure and failure.permanent:
                return _Failed(failure.message, permanent=True, disrupted=False)
            lines = [failure.message] if failure else printed[-15:]
            details = details or "\n    ".join([f"\n  {pod.metadata.name}{_exit_status(pod)}", *lines])
        return _Failed(f"{end.message or end.reason}{details}", permanent=False, disrupted=bool(evicted))

    def _pending_reason(self, name: str) -> str:
        for pod in self.cluster.pods(name):
            for condition in pod.status.conditions or []:
                if condition.type == "PodScheduled" and condition.status == "False":
                    return f": {condition.message or condition.reason}"
            for container in pod.status.container_statuses or []:
                if container.state.waiting:
                    return f": {container.state.waiting.reason}: {container.state.waiting.message or ''}"
        return ": it has no pods, perhaps because of a quota"


def end_condition(job: Any) -> Any | None:
    """Return the ``Complete`` or ``Failed`` condition of a Job, or None while it runs."""
    for condition in job.status.conditions or []:
        if condition.type in {"Complete", "Failed"} and condition.status == "True":
            return condition
    return None


def _has_condition(pod: Any, kind: str) -> bool:
    return any(each.type == kind and each.status == "True" for each in pod.status.conditions or [])


def _exit_status(pod: Any) -> str:
    for container in pod.status.container_statuses or []:
        if container.state.terminated:
            return f" ended with {container.state.terminated.exit_code} ({container.state.terminated.reason})"
    return ""

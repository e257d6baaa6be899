"""A cluster: every stage's work is a Job of its own, and this process waits for it.

Kubernetes is the queue. A group is an Indexed Job with one completion a chunk of its shards; Kubernetes starts as many pods
as are wanted, and a lost pod's chunk again. What is finished is known by the files in the store. The Job's name follows from
the work, so that a run which comes back after it was killed finds the Job that it left.
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
from mobileclip2.executors.local import refusal
from mobileclip2.executors.manifests import Manifest, chunks_job, rendezvous_service, whole_job
from mobileclip2.executors.shard_progress import ShardProgress
from mobileclip2.progress import Step

logger = logging.getLogger(__name__)

POLL_SECONDS = 10.0

RESTARTS = 3
"""of a training, those after lost nodes not counted"""


def connect(settings: Kubernetes) -> KubernetesExecutor:
    """Return the backend for the cluster of this process or of the user's kubeconfig.

    It connects only when there is work.
    """
    return KubernetesExecutor(settings)


@dataclass
class _Failed(Exception):
    """A Job ended badly."""

    message: str
    refused: bool
    """by the code, in a way that trying again does not change"""
    disrupted: bool
    """a pod was evicted or its node lost"""


class KubernetesExecutor:
    """Runs the work of stages as Jobs."""

    def __init__(self, settings: Kubernetes, cluster: Cluster | None = None) -> None:
        self.settings = settings
        self.poll = POLL_SECONDS
        self._cluster = cluster

    @property
    def cluster(self) -> Cluster:
        """Return the connection, which is made at its first use."""
        if self._cluster is None:
            self._cluster = Cluster.connect(self.settings.namespace)
        return self._cluster

    def run(self, work: TaskBatch) -> float:
        """Run the work as Jobs, and return the seconds of one device that it took.

        Raises:
            UserError: a worker refused the work for a reason that the user can correct.
            ComputeError: a Job failed.
        """
        order = TaskSpec.of(work)
        storage = work.pipeline.storage
        order.write(storage)
        stage = load_stage(work.asset.stage)
        try:
            seconds = self._chunks(work, stage, order) if isinstance(stage, ShardStage) else self._whole(work, order)
        except _Failed as failed:
            if failed.refused:
                raise UserError(failed.message) from None
            raise ComputeError(
                f"{work.asset.key}: the Job {order.name} failed: {failed.message}\n"
                "  Finished shards and checkpoints are kept; mend the cause and run again"
            ) from None
        storage.delete(order.key)  # it stays where the work failed: a pod that was left behind may still read it
        return seconds

    def _chunks(self, work: TaskBatch, stage: ShardStage, order: TaskSpec) -> float:
        pods = self.settings.pods(work.asset.stage)
        stage.mend(work)
        watch = ShardProgress(work, stage)
        chunks = count_chunks(watch.total, seconds_a_shard(work), pods.pods)
        job = chunks_job(self.settings, work.asset.stage, order.name, order.store, order.key, chunks)
        seconds = self._follow(job, lambda running: watch.look(pods=running, GPUs=running * pods.gpus))
        watch.expect_all(f"the Job {order.name}")
        stage.close(work)
        return seconds * max(1, pods.gpus)

    def _whole(self, work: TaskBatch, order: TaskSpec) -> float:
        # a student that is not trained is at most measured on some sets, which takes what an evaluation takes
        untrained = work.asset.stage == "student" and not work.asset.trains
        stage, name = "evaluation" if untrained else work.asset.stage, order.name
        pods = self.settings.pods(stage)
        job = whole_job(self.settings, stage, name, order.store, order.key, trains=work.asset.trains)
        several = job["spec"]["completions"] > 1
        if several:
            self.cluster.create_service(rendezvous_service(self.settings, stage, name))
        restarts = 0
        try:
            while True:
                try:
                    return self._follow(job, lambda _: self._pass_on(work, name)) * max(1, pods.gpus)
                except _Failed as failed:
                    restarts += not failed.disrupted
                    if failed.refused or restarts > RESTARTS:
                        raise
                    logger.warning("%s: started again from its last checkpoint: %s", work.asset.key, failed.message)
        finally:
            if several:
                self._clean(lambda: self.cluster.delete_service(name))

    def _follow(self, manifest: Manifest, look: Callable[[int], None]) -> float:
        """Wait for the end of a Job and delete it, and return the seconds of its pods. Create it unless it exists.

        Raises:
            _Failed: the Job failed.
            ComputeError: no pod of it could start, somebody deleted it, or the cluster is away.
        """
        name = manifest["metadata"]["name"]
        self._make(manifest)
        seconds, progressed, succeeded = 0.0, time.monotonic(), 0
        looked = progressed
        try:
            while True:
                job = self.cluster.job(name)
                if job is None:
                    raise ComputeError(f"the Job {name} was deleted by somebody; run again, finished shards are kept")
                now, running = time.monotonic(), job.status.ready or 0
                seconds, looked = seconds + running * (now - looked), now
                look(running)
                if end := ended(job):
                    if end.type == "Complete":
                        return seconds
                    raise self._failed(name, end)
                if running or job.spec.suspend or (job.status.succeeded or 0) > succeeded:
                    progressed, succeeded = now, job.status.succeeded or 0
                elif now - progressed > self.settings.start_minutes * 60:
                    raise ComputeError(
                        f"the Job {name}: no pod could start in {self.settings.start_minutes:g} minutes"
                        f"{self._why_waiting(name)}; see what the stage asks for under 'compute.kubernetes' and run again"
                    )
                time.sleep(self.poll)
        finally:
            self._clean(lambda: self.cluster.delete_job(name))

    def _make(self, manifest: Manifest) -> None:
        """Create a Job, or take over the one that an earlier run left at work."""
        name = manifest["metadata"]["name"]
        deadline = time.monotonic() + self.cluster.patience
        while not self.cluster.create_job(manifest):
            job = self.cluster.job(name)
            if job is not None and not job.metadata.deletion_timestamp:
                if not ended(job):
                    logger.info("the Job %s is there already", name)
                    return
                self.cluster.delete_job(name)
            if time.monotonic() > deadline:
                raise ComputeError(f"the Job {name} is being deleted and does not go; see what holds it and run again")
            time.sleep(min(self.poll, 1.0))

    def _clean(self, delete: Callable[[], None]) -> None:
        try:
            delete()
        except ComputeError as error:  # what the work came to matters more
            logger.warning("left behind: %s", error)

    def _pass_on(self, work: TaskBatch, name: str) -> None:
        """Report the latest step of a training's first pod."""
        for pod in self.cluster.pods(name, index=0):
            steps = map(Step.from_line, self.cluster.log_tail(pod.metadata.name, lines=5).splitlines())
            for step in [step for step in steps if step][-1:]:
                work.progress(step)

    def _failed(self, name: str, end: Any) -> _Failed:
        failed = [pod for pod in self.cluster.pods(name) if pod.status.phase == "Failed"]
        evicted = [pod for pod in failed if _has(pod, "DisruptionTarget")]
        said = ""
        for pod in [pod for pod in failed if pod not in evicted][:5]:
            lines = self.cluster.log_tail(pod.metadata.name).splitlines(keepends=True)
            message = refusal(lines)
            if message:
                return _Failed(message, refused=True, disrupted=False)
            said = said or f"\n  {pod.metadata.name}{_exit(pod)}\n    " + "    ".join(lines[-15:])
        return _Failed(f"{end.message or end.reason}{said}", refused=False, disrupted=bool(evicted))

    def _why_waiting(self, name: str) -> str:
        for pod in self.cluster.pods(name):
            for condition in pod.status.conditions or []:
                if condition.type == "PodScheduled" and condition.status == "False":
                    return f": {condition.message or condition.reason}"
            for container in pod.status.container_statuses or []:
                if container.state.waiting:
                    return f": {container.state.waiting.reason}: {container.state.waiting.message or ''}"
        return ": it has no pods, which a quota may forbid"


def ended(job: Any) -> Any | None:
    """Return the condition that a Job ended with, ``Complete`` or ``Failed``, or None while it runs."""
    for condition in job.status.conditions or []:
        if condition.type in {"Complete", "Failed"} and condition.status == "True":
            return condition
    return None


def _has(pod: Any, kind: str) -> bool:
    return any(each.type == kind and each.status == "True" for each in pod.status.conditions or [])


def _exit(pod: Any) -> str:
    for container in pod.status.container_statuses or []:
        if container.state.terminated:
            return f" ended with {container.state.terminated.exit_code} ({container.state.terminated.reason})"
    return ""

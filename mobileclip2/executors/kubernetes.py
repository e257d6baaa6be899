"""Run each task batch as a Kubernetes Job and wait for it.

Kubernetes is the queue. A group is an Indexed Job with one completion per chunk of its shards. Kubernetes starts the pods and
restarts the chunk of a lost pod. Files in the store show which shards are finished. The name of a Job depends on its batch
alone, so that a restarted run finds the Job of the killed one.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from mobileclip2.config.compute import Kubernetes
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.engine.stage import load_stage
from mobileclip2.engine.task import TaskSpec
from mobileclip2.errors import ComputeError, UserError
from mobileclip2.executors.chunks import count_chunks, seconds_a_shard
from mobileclip2.executors.cluster import Cluster
from mobileclip2.executors.commands import LOGS
from mobileclip2.executors.job_status import is_disruption, is_gang, missing_pods, read_state
from mobileclip2.executors.lost_nodes import LostPod, NodeWatch, explain_lost
from mobileclip2.executors.manifests import Manifest, chunks_job, rendezvous_service, training_jobset, unsharded_job
from mobileclip2.executors.messages import StepReport, first_failure, parse_output
from mobileclip2.executors.metrics import watch
from mobileclip2.executors.refusals import is_final
from mobileclip2.executors.shard_progress import ShardProgress

logger = logging.getLogger(__name__)

POLL_SECONDS = 10.0

POD_LIST_SECONDS = 60.0
"""time between two requests for the start times of pods, which only metrics need"""

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


class _NodeLost(Exception):
    """Pods of a Job are on lost nodes, and it is safe to start them elsewhere."""


class _Silent(ComputeError):
    """A pod that must not run twice is on a node that does not answer. Its Job stays, so that no other takes its place."""


class KubernetesExecutor:
    """Runs task batches as Jobs in the cluster of this pod or of the kubeconfig."""

    def __init__(self, settings: Kubernetes) -> None:
        self.settings = settings
        self.poll = POLL_SECONDS

    @cached_property
    def cluster(self) -> Cluster:
        """Return the connection. The first call connects."""
        return Cluster(self.settings.namespace)

    def run(self, batch: TaskBatch) -> float:
        """Run a batch as a Job, commit its manifests and return the device-seconds."""
        spec = TaskSpec.of(batch)
        storage = batch.pipeline.storage
        spec.write(storage)
        stage = load_stage(batch.asset.stage)
        metrics = watch(batch)
        seconds_before = metrics.pod_seconds
        try:
            if isinstance(stage, ShardStage):
                self._run_shards(batch, stage, spec)
            else:
                self._run_unsharded(batch, spec)
        except _Failed as failed:
            if failed.permanent:
                raise UserError(failed.message) from None
            raise ComputeError(
                f"{batch.asset.key}: the Job {spec.name} failed: {failed.message}\n"
                "  Finished shards and checkpoints are kept; fix the cause and run again"
            ) from None
        storage.delete(spec.key)  # kept after a failure, because a remaining pod may still read it
        return (metrics.pod_seconds - seconds_before) * max(1, metrics.gpus_per_pod)

    def _run_shards(self, batch: TaskBatch, stage: ShardStage, spec: TaskSpec) -> None:
        pods = self.settings.pods(batch.asset.stage)
        metrics = watch(batch)
        metrics.gpus_per_pod = pods.gpus
        stage.discard_truncated(batch)
        progress = ShardProgress(batch, stage)
        chunks = count_chunks(progress.total, seconds_a_shard(batch), pods.pods)

        def report(job: Any) -> None:
            running = job.status.ready or 0
            progress.report(pods=running, GPUs=running * pods.gpus)

        while True:
            job = chunks_job(self.settings, batch.asset.stage, spec.name, spec.store, spec.key, chunks)
            try:
                self._wait(batch, job, report)
                break
            except _NodeLost as lost:
                # safe even if the node still runs: equal shards have equal bytes, and only this run commits manifests
                chunks = max(1, min(chunks, len(stage.unfinished(batch))))
                metrics.retries += 1
                logger.warning("%s: starting the chunks of lost nodes again: %s", batch.asset.key, lost)
        progress.expect_all(f"the Job {spec.name}")
        stage.commit(batch)

    def _run_unsharded(self, batch: TaskBatch, spec: TaskSpec) -> None:
        # a student without training is at most evaluated, so it gets the pods of an evaluation
        untrained = batch.asset.stage == "student" and not batch.asset.trains
        stage, name = "evaluation" if untrained else batch.asset.stage, spec.name
        job = unsharded_job(self.settings, stage, name, spec.store, spec.key, trains=batch.asset.trains)
        service = None
        is_jobset = self.settings.jobset and job["spec"]["completions"] > 1
        if is_jobset:
            job = training_jobset(job, RESTARTS)
        elif job["spec"]["completions"] > 1:
            service = partial(rendezvous_service, self.settings, stage, name)
        metrics = watch(batch)
        metrics.gpus_per_pod = self.settings.pods(stage).gpus
        restarts = 0
        while True:
            try:
                self._wait(batch, job, lambda job: self._report_step(batch, job), service)
                return
            except _NodeLost as lost:
                message = str(lost)
            except _Failed as failed:
                restarts += not failed.disrupted
                if failed.permanent or restarts > RESTARTS or is_jobset:  # a JobSet has had its restarts
                    raise
                message = failed.message
            metrics.retries += 1
            logger.warning("%s: restarting from the last checkpoint: %s", batch.asset.key, message)

    def _wait(
        self,
        batch: TaskBatch,
        manifest: Manifest,
        report: Callable[[Any], None],
        service: Callable[[str], Manifest] | None = None,
    ) -> None:
        """Create a Job unless it exists, and wait for its end.

        A failed Job stays until the end of its lifetime. Every other Job is deleted, unless this run continues elsewhere.

        Args:
            manifest: of a Job or JobSet.
            report: receives the ``V1Job`` of each poll.
            service: returns the Service of a Job with this uid.

        Raises:
            _Failed: the Job failed.
            _NodeLost: pods are on lost nodes, and the rest of the Job waits for them.
            ComputeError: no pod could start, the Job was deleted, or the cluster is unreachable.
        """
        self._create(manifest)
        try:
            self._watch(batch, manifest, report, service)
        except (_Failed, _Silent):
            raise
        except BaseException as error:
            if isinstance(error, Exception) or not batch.run_status.will_resume():
                self._try_delete(manifest)
            raise
        finally:
            watch(batch).end()
        self._try_delete(manifest)

    def _watch(
        self,
        batch: TaskBatch,
        manifest: Manifest,
        report: Callable[[Any], None],
        service: Callable[[str], Manifest] | None,
    ) -> None:
        nodes, warned, uid = NodeWatch(), set[str](), None
        metrics, failed_before, listed = watch(batch), 0, -math.inf
        succeeded = 0
        progressed = polled = time.monotonic()
        while True:
            state = read_state(self.cluster, manifest)
            if state is None:
                name = manifest["metadata"]["name"]
                raise ComputeError(f"the Job {name} was deleted while it ran; run again, finished shards are kept")
            if batch.run_status.is_ended():
                raise ComputeError(f"{batch.asset.key}: the run was ended; run again, finished shards are kept")
            job, end = state.job, state.end
            if job is None:  # a JobSet creates it now
                if end:
                    raise _Failed(end.message or end.reason, permanent=False, disrupted=False)
                time.sleep(self.poll)
                continue
            if service and uid is None:
                self._create_service(service(job.metadata.uid))
            if uid not in {None, job.metadata.uid}:  # the controller of JobSets restarted the training
                metrics.retries += 1
            uid, now, status = job.metadata.uid, time.monotonic(), job.status
            ready, active, terminating = status.ready or 0, status.active or 0, status.terminating or 0
            metrics.running(ready, now - polled)
            polled = now
            if not is_gang(job):
                metrics.retries += max(0, (status.failed or 0) - failed_before)
                failed_before = max(failed_before, status.failed or 0)
            if not ready:
                metrics.oldest_start = None
            elif batch.profile.compute.metrics and (metrics.oldest_start is None or now - listed > POD_LIST_SECONDS):
                listed, metrics.oldest_start = now, self._oldest_start(uid)
            report(job)
            if end and end.type == "Complete":
                return
            if end:
                raise self._failed(batch, job, end, disrupted=is_disruption(end) or bool(warned))
            lost = nodes.lost(self.cluster.pods(uid)) if terminating or ready < active else []
            for node in {pod.node for pod in lost} - warned:
                warned.add(node)
                logger.warning("%s: %s", batch.asset.key, explain_lost([pod for pod in lost if pod.node == node]))
            overdue = [pod for pod in lost if pod.overdue]
            blocked = is_gang(job) or (active == 0 and len(overdue) >= terminating)
            if overdue and blocked and job.spec.completions > 1:
                raise _NodeLost(explain_lost(overdue))
            if job.spec.suspend or not missing_pods(job) or (status.succeeded or 0) > succeeded:
                progressed, succeeded = now, status.succeeded or 0
            else:
                refusals = self._refusals(job)
                if now - progressed > self.settings.start_minutes * 60:
                    raise self._stuck(job, lost, refusals)
            time.sleep(self.poll)

    def _oldest_start(self, uid: str) -> float | None:
        """Return the UNIX time when the oldest running pod of a Job started."""
        pods = [pod.status for pod in self.cluster.pods(uid) if pod.status.phase == "Running" and pod.status.start_time]
        return min((status.start_time.timestamp() for status in pods), default=None)

    def _refusals(self, job: Any) -> list[str]:
        """Return why pods of a Job are refused now, or raise ``ComputeError`` if the API server will refuse them again."""
        wanted = job.spec.parallelism if is_gang(job) else 1
        status = job.status
        if (status.active or 0) + (status.terminating or 0) + (status.succeeded or 0) >= wanted:
            return []
        refusals = self.cluster.refusals(job.metadata.uid)
        for refusal in refusals:
            if is_final(refusal, wanted):
                raise ComputeError(
                    f"the Job {job.metadata.name}: the cluster refuses its pods: {refusal}; "
                    "change 'compute.kubernetes' or the namespace and run again"
                )
        return refusals

    def _stuck(self, job: Any, lost: list[LostPod], refusals: list[str]) -> ComputeError:
        name, minutes = job.metadata.name, self.settings.start_minutes
        if lost:
            return _Silent(
                f"the Job {name}: {explain_lost(lost)}; run again then. Delete the Job only if the node runs nothing any more"
            )
        ready = job.status.ready or 0
        started = f"only {ready} of {job.spec.completions} pods" if ready else "no pod"
        reason = f": {refusals[0]}" if refusals else self._pending_reason(job)
        return ComputeError(
            f"the Job {name}: {started} could start in {minutes:g} minutes{reason}; "
            "check the resources of the stage under 'compute.kubernetes' and run again"
        )

    def _create(self, manifest: Manifest) -> None:
        """Create a Job, or adopt the running Job of an earlier run."""
        name, deadline = manifest["metadata"]["name"], time.monotonic() + self.cluster.patience
        while not self.cluster.create(manifest):
            state = read_state(self.cluster, manifest)
            if state is not None and not state.is_being_deleted:
                if not state.end:
                    logger.info("adopting the running Job %s", name)
                    return
                self.cluster.delete(manifest["kind"], name)
            if time.monotonic() > deadline:
                raise ComputeError(
                    f"the Job {name} is being deleted but still exists; see what blocks its deletion and run again"
                )
            time.sleep(min(self.poll, 1.0))

    def _create_service(self, manifest: Manifest) -> None:
        """Create the Service of a Job, and replace the one of an earlier Job."""
        name, owners = manifest["metadata"]["name"], manifest["metadata"]["ownerReferences"]
        while not self.cluster.create(manifest):
            service = self.cluster.read("Service", name)
            if service and [owner.uid for owner in service.metadata.owner_references or []] == [owners[0]["uid"]]:
                return
            self.cluster.delete("Service", name)

    def _try_delete(self, manifest: Manifest) -> None:
        try:
            self.cluster.delete(manifest["kind"], manifest["metadata"]["name"])
        except ComputeError as error:  # must not hide the outcome of the Job
            logger.warning("could not delete: %s", error)

    def _report_step(self, batch: TaskBatch, job: Any) -> None:
        """Report the latest step that the first pod of a training logged."""
        for pod in self.cluster.pods(job.metadata.uid, index=0):
            messages, _ = parse_output(self.cluster.log_tail(pod.metadata.name))
            for report in [message for message in messages if isinstance(message, StepReport)][-1:]:
                metrics = watch(batch)
                metrics.steps, metrics.steps_finished = report.step.total, report.step.done
                batch.progress(report.step)

    def _failed(self, batch: TaskBatch, job: Any, end: Any, *, disrupted: bool) -> _Failed:
        """Describe a failed Job by the pods that ended by themselves. Evicted pods are not listed any more."""
        details = ""
        for pod in [pod for pod in self.cluster.pods(job.metadata.uid) if pod.status.phase == "Failed"][:5]:
            messages, printed = parse_output(self.cluster.log_tail(pod.metadata.name))
            failure = first_failure(messages)
            if failure and failure.permanent:
                return _Failed(failure.message, permanent=True, disrupted=False)
            lines = [failure.message] if failure else printed[-15:]
            details = details or "\n    ".join([f"\n  {pod.metadata.name}{_exit_status(pod)}", *lines])
        logs = f"{batch.pipeline.storage.url}/{LOGS}/{job.metadata.name}"
        message = f"{end.message or end.reason}{details}\n  The logs of its pods are in {logs}"
        return _Failed(message, permanent=False, disrupted=disrupted)

    def _pending_reason(self, job: Any) -> str:
        for pod in self.cluster.pods(job.metadata.uid):
            for condition in pod.status.conditions or []:
                if condition.type == "PodScheduled" and condition.status == "False":
                    return f": {condition.message or condition.reason}"
            for container in pod.status.container_statuses or []:
                if container.state.waiting:
                    return f": {container.state.waiting.reason}: {container.state.waiting.message or ''}"
        return ""


def _exit_status(pod: Any) -> str:
    ended = [each.state.terminated for each in pod.status.container_statuses or [] if each.state.terminated]
    return f" ended with {ended[0].exit_code} ({ended[0].reason})" if ended else ""

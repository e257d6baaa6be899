"""Read the status of a Kubernetes Job, or of the JobSet whose controller restarts the Job of a training."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from mobileclip2.executors.cluster import Cluster
from mobileclip2.executors.manifests import JOBSET_JOB, Manifest


@dataclass(frozen=True)
class JobState:
    """What exists of a Job or JobSet at one moment."""

    job: Any | None
    """the ``V1Job``; None while a JobSet replaces it"""
    end: Any | None
    """condition of type ``Complete`` or ``Failed`` after the end"""
    is_being_deleted: bool


def read_state(cluster: Cluster, manifest: Manifest) -> JobState | None:
    """Return the state of the Job or JobSet of a manifest, or None if it does not exist."""
    kind, name = manifest["kind"], manifest["metadata"]["name"]
    found = cluster.read(kind, name)
    if found is None:
        return None
    if kind == "Job":
        return JobState(found, end_condition(found), bool(found.metadata.deletion_timestamp))
    end = None
    for each in found.get("status", {}).get("conditions", []):
        if each["type"] in {"Completed", "Failed"} and each["status"] == "True":
            kind = "Complete" if each["type"] == "Completed" else "Failed"
            end = SimpleNamespace(type=kind, reason=each.get("reason"), message=each.get("message"))
    job = cluster.read("Job", f"{name}-{JOBSET_JOB}-0")
    return JobState(job, end, "deletionTimestamp" in found["metadata"])


def end_condition(job: Any) -> Any | None:
    """Return the ``Complete`` or ``Failed`` condition of a Job, or None while it runs or its pods terminate."""
    ends = (each for each in job.status.conditions or [] if each.type in {"Complete", "Failed"})
    return next((each for each in ends if each.status == "True"), None)


def is_disruption(end: Any) -> bool:
    """Return whether a Job failed because a pod was evicted or its node was lost, and not because of its work.

    The evicted pods themselves cannot be listed any more when a Job has failed.
    """
    return end.reason == "PodFailurePolicy" and "DisruptionTarget" in (end.message or "")


def is_gang(job: Any) -> bool:
    """Return whether the pods of a Job can only work together, as those of a training."""
    return job.spec.backoff_limit_per_index is None


def missing_pods(job: Any) -> int:
    """Return the number of pods that the Job still needs before it makes progress."""
    wanted = job.spec.completions if is_gang(job) else 1
    return max(0, wanted - (job.status.ready or 0) - ((is_gang(job) and job.status.succeeded) or 0))

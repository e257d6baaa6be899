"""The two objects that run a batch on Kubernetes: a Job, or a JobSet whose controller restarts the Job of a training."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from mobileclip2.executors.cluster import Cluster
from mobileclip2.executors.job_status import end_condition
from mobileclip2.executors.manifests import JOBSET_JOB, Manifest


@dataclass(frozen=True)
class WorkloadState:
    """What exists of a workload at one moment."""

    job: Any | None
    """the ``V1Job``; None while a JobSet replaces it"""
    end: Any | None
    """condition of type ``Complete`` or ``Failed`` after the end"""
    is_being_deleted: bool


class JobWorkload:
    """A Job that the executor itself creates again after a failure."""

    def __init__(self, cluster: Cluster, manifest: Manifest) -> None:
        self.cluster, self.manifest = cluster, manifest
        self.name: str = manifest["metadata"]["name"]

    def create(self) -> bool:
        """Create the object. Return False if it exists."""
        return self.cluster.create_job(self.manifest)

    def state(self) -> WorkloadState | None:
        """Return the state, or None if the object does not exist."""
        job = self.cluster.job(self.name)
        return WorkloadState(job, end_condition(job), bool(job.metadata.deletion_timestamp)) if job else None

    def delete(self) -> None:
        """Delete the object and its pods, if it exists."""
        self.cluster.delete_job(self.name)


class JobSetWorkload(JobWorkload):
    """A JobSet with one Job."""

    def create(self) -> bool:
        """Create the object. Return False if it exists."""
        return self.cluster.create_jobset(self.manifest)

    def state(self) -> WorkloadState | None:
        """Return the state, or None if the object does not exist."""
        jobset = self.cluster.jobset(self.name)
        if jobset is None:
            return None
        end = None
        for each in jobset.get("status", {}).get("conditions", []):
            if each["type"] in {"Completed", "Failed"} and each["status"] == "True":
                kind = "Complete" if each["type"] == "Completed" else "Failed"
                end = SimpleNamespace(type=kind, reason=each.get("reason"), message=each.get("message"))
        job = self.cluster.job(f"{self.name}-{JOBSET_JOB}-0")
        return WorkloadState(job, end, "deletionTimestamp" in jobset["metadata"])

    def delete(self) -> None:
        """Delete the object with its Job and its pods, if it exists."""
        self.cluster.delete_jobset(self.name)

"""Read the status of a Kubernetes Job."""

from __future__ import annotations

from typing import Any


def condition(job: Any, *kinds: str) -> Any | None:
    """Return the first true condition of a ``V1Job`` of these kinds, or None."""
    for each in job.status.conditions or []:
        if each.type in kinds and each.status == "True":
            return each
    return None


def end_condition(job: Any) -> Any | None:
    """Return the ``Complete`` or ``Failed`` condition of a Job, or None while it runs or its pods terminate."""
    return condition(job, "Complete", "Failed")


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

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mobileclip2.executors.workload import JobSetWorkload, JobWorkload

MANIFEST = {"metadata": {"name": "a"}}


def job(*conditions: str, deleted: str | None = None) -> Any:
    made = [SimpleNamespace(type=kind, status="True", reason="r", message="m") for kind in conditions]
    return SimpleNamespace(
        metadata=SimpleNamespace(deletion_timestamp=deleted), status=SimpleNamespace(conditions=made)
    )


def jobset(*conditions: str, **metadata: str) -> dict[str, Any]:
    made = [{"type": kind, "status": "True", "reason": "r", "message": "m"} for kind in conditions]
    return {"metadata": metadata, "status": {"conditions": made} if conditions else {}}


class Objects:
    """A cluster that has what a test gives."""

    def __init__(self, **objects: Any) -> None:
        self.objects = objects

    def job(self, name: str) -> Any:
        return self.objects.get(f"job_{name}".replace("-", "_"))

    def jobset(self, name: str) -> Any:
        return self.objects.get(f"jobset_{name}")


def state(kind: type[JobWorkload], **objects: Any) -> Any:
    return kind(Objects(**objects), MANIFEST).state()  # type: ignore[arg-type]


def test_a_job_is_over_when_it_says_so() -> None:
    assert state(JobWorkload) is None
    running = state(JobWorkload, job_a=job("FailureTarget"))
    assert running.end is None and not running.is_being_deleted
    ended = state(JobWorkload, job_a=job("FailureTarget", "Failed", deleted="then"))
    assert ended.end.type == "Failed" and ended.is_being_deleted


def test_the_end_of_a_jobset_counts_and_not_that_of_its_job() -> None:
    assert state(JobSetWorkload, job_a_node_0=job()) is None
    between = state(JobSetWorkload, jobset_a=jobset())
    assert between.job is None and between.end is None
    restarting = state(JobSetWorkload, jobset_a=jobset("Suspended"), job_a_node_0=job("Failed"))
    assert restarting.end is None
    done = state(JobSetWorkload, jobset_a=jobset("Completed", deletionTimestamp="then"), job_a_node_0=job("Complete"))
    assert done.end.type == "Complete" and done.is_being_deleted
    assert state(JobSetWorkload, jobset_a=jobset("Failed")).end.message == "m"

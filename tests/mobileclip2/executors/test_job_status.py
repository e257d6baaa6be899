from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mobileclip2.executors.job_status import end_condition, is_disruption, is_gang, missing_pods, read_state


def job(*conditions: tuple[str, str, str], limit: int | None = None, deleted: str | None = None, **status: int) -> Any:
    made = [
        SimpleNamespace(type=kind, status="True", reason=reason, message=message)
        for kind, reason, message in conditions
    ]
    return SimpleNamespace(
        metadata=SimpleNamespace(deletion_timestamp=deleted),
        spec=SimpleNamespace(completions=4, backoff_limit_per_index=limit),
        status=SimpleNamespace(conditions=made, **{"ready": None, "succeeded": None, **status}),
    )


def jobset(*conditions: str, **metadata: str) -> dict[str, Any]:
    made = [{"type": kind, "status": "True", "reason": "r", "message": "m"} for kind in conditions]
    return {"metadata": metadata, "status": {"conditions": made} if conditions else {}}


def state(kind: str, **objects: Any) -> Any:
    """Return the state in a cluster that contains ``objects``."""
    cluster: Any = SimpleNamespace(
        read=lambda kind, name: objects.get(f"{kind.lower()}_{name}".replace("-", "_")),
    )
    return read_state(cluster, {"kind": kind, "metadata": {"name": "a"}})


def test_failure_target_alone_does_not_end_a_job() -> None:
    target = ("FailureTarget", "BackoffLimitExceeded", "")
    assert end_condition(job()) is None and end_condition(job(target)) is None
    assert end_condition(job(target, ("Failed", "BackoffLimitExceeded", ""))).type == "Failed"


def test_the_state_of_a_job_has_its_end_and_deletion() -> None:
    target, failed = ("FailureTarget", "r", "m"), ("Failed", "r", "m")
    assert state("Job") is None
    running = state("Job", job_a=job(target))
    assert running.end is None and not running.is_being_deleted
    ended = state("Job", job_a=job(target, failed, deleted="then"))
    assert ended.end.type == "Failed" and ended.is_being_deleted


def test_a_jobset_ends_only_with_its_own_condition() -> None:
    assert state("JobSet", job_a_node_0=job()) is None
    between = state("JobSet", jobset_a=jobset())
    assert between.job is None and between.end is None
    restarting = state("JobSet", jobset_a=jobset("Suspended"), job_a_node_0=job(("Failed", "r", "m")))
    assert restarting.end is None
    complete = job(("Complete", "r", "m"))
    done = state("JobSet", jobset_a=jobset("Completed", deletionTimestamp="then"), job_a_node_0=complete)
    assert done.end.type == "Complete" and done.is_being_deleted
    assert state("JobSet", jobset_a=jobset("Failed")).end.message == "m"


def test_the_failure_reason_identifies_a_disruption() -> None:
    evicted = "Pod n/p has condition DisruptionTarget matching FailJob rule at index 0"
    code = "Container work for pod n/p failed with exit code 65 matching FailJob rule at index 1"
    assert is_disruption(end_condition(job(("Failed", "PodFailurePolicy", evicted))))
    assert not is_disruption(end_condition(job(("Failed", "PodFailurePolicy", code))))
    assert not is_disruption(end_condition(job(("Failed", "BackoffLimitExceeded", ""))))


def test_a_training_needs_all_pods_and_chunks_need_one() -> None:
    assert is_gang(job()) and not is_gang(job(limit=3))
    assert [missing_pods(job(ready=ready, succeeded=1)) for ready in (0, 2, 3)] == [3, 1, 0]
    assert [missing_pods(job(limit=3, ready=ready, succeeded=1)) for ready in (0, 1, 2)] == [1, 0, 0]

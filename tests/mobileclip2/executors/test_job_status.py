from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from mobileclip2.executors.job_status import end_condition, is_disruption, is_gang, missing_pods


def job(*conditions: tuple[str, str, str], limit: int | None = None, **status: int) -> Any:
    made = [
        SimpleNamespace(type=kind, status="True", reason=reason, message=message)
        for kind, reason, message in conditions
    ]
    return SimpleNamespace(
        spec=SimpleNamespace(completions=4, backoff_limit_per_index=limit),
        status=SimpleNamespace(conditions=made, **{"ready": None, "succeeded": None, **status}),
    )


def test_a_job_ends_when_its_pods_have() -> None:
    target = ("FailureTarget", "BackoffLimitExceeded", "")
    assert end_condition(job()) is None and end_condition(job(target)) is None
    assert end_condition(job(target, ("Failed", "BackoffLimitExceeded", ""))).type == "Failed"


def test_the_reason_of_a_job_tells_a_disruption() -> None:
    evicted = "Pod n/p has condition DisruptionTarget matching FailJob rule at index 0"
    code = "Container work for pod n/p failed with exit code 65 matching FailJob rule at index 1"
    assert is_disruption(end_condition(job(("Failed", "PodFailurePolicy", evicted))))
    assert not is_disruption(end_condition(job(("Failed", "PodFailurePolicy", code))))
    assert not is_disruption(end_condition(job(("Failed", "BackoffLimitExceeded", ""))))


def test_a_training_needs_all_pods_and_chunks_need_one() -> None:
    assert is_gang(job()) and not is_gang(job(limit=3))
    assert [missing_pods(job(ready=ready, succeeded=1)) for ready in (0, 2, 3)] == [3, 1, 0]
    assert [missing_pods(job(limit=3, ready=ready, succeeded=1)) for ready in (0, 1, 2)] == [1, 0, 0]

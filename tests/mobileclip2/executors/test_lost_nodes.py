from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from mobileclip2.executors import lost_nodes
from mobileclip2.executors.lost_nodes import LostPod, NodeWatch, explain_lost


def pod(
    *, ready: str = "True", running: bool = True, deleted: bool = False, phase: str = "Running", node: str | None = "n"
) -> Any:
    return SimpleNamespace(
        metadata=SimpleNamespace(
            name="p", uid="u", deletion_timestamp="then" if deleted else None, deletion_grace_period_seconds=30
        ),
        spec=SimpleNamespace(node_name=node),
        status=SimpleNamespace(
            phase=phase,
            conditions=[SimpleNamespace(type="Ready", status=ready)],
            container_statuses=[SimpleNamespace(ready=running)],
        ),
    )


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(lost_nodes.time, "monotonic", lambda: clock.now)
    return clock


def test_an_unready_pod_with_a_running_container_is_lost() -> None:
    assert NodeWatch().lost([pod(ready="False")]) == [LostPod("p", "n", overdue=False)]


def test_pods_that_are_starting_running_or_ended_are_not_lost() -> None:
    alive = [
        pod(),
        pod(ready="False", running=False),
        pod(ready="False", phase="Failed"),
        pod(ready="False", node=None),
    ]
    assert NodeWatch().lost(alive) == []


def test_a_terminating_pod_is_overdue_long_after_its_grace_period(clock: SimpleNamespace) -> None:
    watch = NodeWatch()
    for clock.now, lost in ((0, []), (89, []), (91, [LostPod("p", "n", overdue=True)])):
        assert watch.lost([pod(deleted=True)]) == lost


def test_a_lost_pod_stays_lost_after_eviction_until_it_is_ready(clock: SimpleNamespace) -> None:
    watch = NodeWatch()
    assert not watch.lost([pod(ready="False", deleted=True)]), "a pod that ends normally"
    for each, lost in ((pod(ready="False"), 1), (pod(ready="False", deleted=True), 1), (pod(), 0)):
        assert len(watch.lost([each])) == lost


def test_the_explanation_has_a_command_for_each_node() -> None:
    text = explain_lost([LostPod("p", "a", overdue=True), LostPod("q", "b", overdue=False)])
    assert "no answer from node a, b with the pods p, q" in text and text.count("kubectl taint nodes") == 2

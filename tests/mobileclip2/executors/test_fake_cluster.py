"""The fake cluster behaves as a real control plane of version 1.36 was observed to. Its pods run shell scripts."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.cluster import FakeCluster, Faults, Object, Refused, has_condition
from tests.waiting import until

DISRUPTED = [{"type": "DisruptionTarget", "status": "True"}]
FAIL_JOB = {"podFailurePolicy": {"rules": [{"action": "FailJob", "onPodConditions": DISRUPTED}]}}
IGNORE = {"podFailurePolicy": {"rules": [{"action": "Ignore", "onPodConditions": DISRUPTED}]}}
STUBBORN = "trap '' TERM; echo up; while true; do sleep 0.05; done"
OBEDIENT = "trap 'exit 143' TERM; echo up; while true; do sleep 0.05; done"

Start = Callable[..., Object]


@pytest.fixture
def cluster(running: FakeCluster) -> Iterator[FakeCluster]:
    running.faults = Faults()
    running.everything.clear()
    running.grace_seconds, grace = 0.5, running.grace_seconds
    yield running
    running.faults, running.grace_seconds = Faults(), grace
    for node in list(running.dead):
        running.remove_node(node)
    for kind in ("jobs", "services"):
        for name in list(running.objects[kind]):
            running.delete(kind, name)
    until(lambda: not any(running.objects.values()))


@pytest.fixture
def start(cluster: FakeCluster) -> Start:
    def start(script: str = OBEDIENT, pods: int = 1, gpus: int = 0, **spec: Any) -> Object:
        limits = {"limits": {"nvidia.com/gpu": gpus}, "requests": {"nvidia.com/gpu": gpus}} if gpus else {}
        container = {"name": "work", "image": "i", "command": ["sh", "-c", script], "resources": limits}
        job = {
            "apiVersion": "batch/v1",
            "kind": "Job",
            "metadata": {"name": "job", "namespace": "mobileclip2"},
            "spec": {
                "completionMode": "Indexed",
                "completions": pods,
                "parallelism": pods,
                **spec,
                "template": {"metadata": {}, "spec": {"restartPolicy": "Never", "containers": [container]}},
            },
        }
        return cluster.create("jobs", job)

    return start


def running_pods(cluster: FakeCluster, count: int) -> list[Object]:
    def up() -> list[Object]:
        return [pod for pod in cluster.pods("Running") if "up" in cluster.log(pod["metadata"]["name"], {})]

    until(lambda: len(up()) == count)
    return up()


def conditions(job: Object) -> list[str]:
    return [f"{each['type']} {each['reason']}" for each in job["status"].get("conditions", [])]


def test_an_evicted_pod_is_gone_from_the_list_once_it_has_terminated(cluster: FakeCluster, start: Start) -> None:
    start(OBEDIENT, backoffLimitPerIndex=1, **IGNORE)
    (pod,) = running_pods(cluster, 1)
    cluster.evict(pod)
    assert pod in cluster.pods() and "deletionTimestamp" in pod["metadata"] and has_condition(pod, "DisruptionTarget")
    until(lambda: pod not in cluster.pods())
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 143


def test_a_pod_that_ignores_sigterm_is_killed_after_the_grace_period(cluster: FakeCluster, start: Start) -> None:
    """The first process of a container ignores signals that it does not handle."""
    start(STUBBORN, backoffLimit=0)
    (pod,) = running_pods(cluster, 1)
    cluster.evict(pod)
    until(lambda: pod not in cluster.pods())
    assert pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] == 137


def test_failed_follows_failure_target_when_all_pods_have_terminated(cluster: FakeCluster, start: Start) -> None:
    job = start(STUBBORN, pods=2, backoffLimit=0)
    cluster.grace_seconds = 1.5
    first, second = running_pods(cluster, 2)
    cluster.kill(first)
    until(lambda: conditions(job))
    assert conditions(job) == ["FailureTarget BackoffLimitExceeded"]
    until(lambda: job["status"].get("terminating") == 1)
    until(lambda: len(conditions(job)) == 2)
    assert conditions(job)[1] == "Failed BackoffLimitExceeded"
    assert first in cluster.pods() and second not in cluster.pods(), "only a pod that nobody deleted stays"


def test_the_job_itself_records_a_disruption(cluster: FakeCluster, start: Start) -> None:
    job = start(pods=2, backoffLimit=0, **FAIL_JOB)
    pod = running_pods(cluster, 2)[0]
    cluster.evict(pod)
    until(lambda: len(conditions(job)) == 2)
    assert conditions(job) == ["FailureTarget PodFailurePolicy", "Failed PodFailurePolicy"]
    message = job["status"]["conditions"][0]["message"]
    assert "has condition DisruptionTarget matching FailJob rule at index 0" in message
    assert not cluster.pods()


def test_an_evicted_chunk_is_replaced_and_does_not_count(cluster: FakeCluster, start: Start) -> None:
    job = start(backoffLimitPerIndex=0, **IGNORE)
    for _ in range(3):
        (pod,) = running_pods(cluster, 1)
        cluster.evict(pod)
        until(lambda gone=pod: gone not in cluster.pods())
    running_pods(cluster, 1)
    assert not conditions(job) and job["status"]["failed"] == 3


def test_a_deleted_pod_counts_as_a_failure(cluster: FakeCluster, start: Start) -> None:
    job = start(backoffLimitPerIndex=0, **IGNORE)
    (pod,) = running_pods(cluster, 1)
    cluster.delete("pods", pod["metadata"]["name"])
    until(lambda: len(conditions(job)) == 2)
    assert conditions(job)[0] == "FailureTarget FailedIndexes" and not cluster.pods()


def test_the_pods_of_a_dead_node_stay_terminating(cluster: FakeCluster, start: Start) -> None:
    """A training's Job does not end, and a chunk is not replaced, until the node is removed."""
    job = start(pods=2, gpus=2, backoffLimit=0, **FAIL_JOB)
    lost, other = running_pods(cluster, 2)
    node = lost["spec"]["nodeName"]
    cluster.lose_node(node)
    until(lambda: job["status"]["ready"] == 1)
    assert lost["status"]["phase"] == "Running"
    until(lambda: job["status"]["terminating"] == 1)
    until(lambda: lost["metadata"]["name"] not in cluster.kubelet.pids)
    cluster.kill(other)
    until(lambda: conditions(job))
    assert conditions(job) == ["FailureTarget BackoffLimitExceeded"] and lost in cluster.pods()
    cluster.remove_node(node)
    until(lambda: len(conditions(job)) == 2)
    assert lost not in cluster.pods()


def test_a_chunk_on_a_dead_node_is_replaced_after_its_removal(cluster: FakeCluster, start: Start) -> None:
    job = start(backoffLimitPerIndex=0, **IGNORE)
    (lost,) = running_pods(cluster, 1)
    cluster.lose_node(lost["spec"]["nodeName"])
    until(lambda: (job["status"]["active"], job["status"]["terminating"]) == (0, 1))
    cluster.remove_node(lost["spec"]["nodeName"])
    (other,) = running_pods(cluster, 1)
    assert other is not lost and not conditions(job)


def test_a_partly_scheduled_job_keeps_its_running_pods(cluster: FakeCluster, start: Start) -> None:
    job = start(pods=3, gpus=2, backoffLimit=0)
    running_pods(cluster, 2)
    until(lambda: job["status"]["ready"] == 2)
    assert job["status"]["active"] == 3 and not conditions(job)


def test_a_job_whose_pods_are_refused_has_events_and_no_pods(cluster: FakeCluster, start: Start) -> None:
    why = "no PriorityClass with name high was found"
    cluster.faults.refuse = lambda pod: f'pods "job-" is forbidden: {why}'
    job = start(backoffLimit=0)
    uid = job["metadata"]["uid"]
    fields = f"involvedObject.uid={uid},reason=FailedCreate"
    until(lambda: cluster.select("events", "", fields)["items"])
    (event,) = cluster.select("events", "", fields)["items"]
    assert event["message"] == f'Error creating: pods "job-" is forbidden: {why}'
    assert not cluster.everything and job["status"]["active"] == 0 and not conditions(job)
    assert not cluster.select("events", "", "involvedObject.uid=other")["items"]


def test_an_object_is_deleted_with_its_owner(cluster: FakeCluster, start: Start) -> None:
    job = start(STUBBORN)
    (pod,) = running_pods(cluster, 1)
    owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "job", "uid": job["metadata"]["uid"]}
    service = {"apiVersion": "v1", "kind": "Service", "spec": {"clusterIP": "None", "ports": [{"port": 1}]}}
    cluster.create("services", {**service, "metadata": {"name": "job", "ownerReferences": [owner]}})
    cluster.delete("jobs", "job")
    assert pod in cluster.pods(), "it has its grace period first"
    until(lambda: not cluster.objects["services"] and not cluster.pods())


def test_a_conflict_response_has_a_reason(cluster: FakeCluster, start: Start) -> None:
    start()
    with pytest.raises(Refused) as refused:
        start()
    assert refused.value.reason == "AlreadyExists"
    cluster.faults.answer = lambda method, path: 409
    with pytest.raises(urllib.error.HTTPError) as answered:
        urllib.request.urlopen(f"{cluster.url}/api/v1/namespaces/mobileclip2/pods")
    assert json.loads(answered.value.read())["reason"] == "Conflict"

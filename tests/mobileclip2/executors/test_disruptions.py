"""Disruptions of a training Job on the fake cluster. The pods run shell scripts, so that a test takes seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mobileclip2.config.compute import ComputeSettings, Kubernetes
from mobileclip2.errors import ComputeError
from mobileclip2.executors import kubernetes
from mobileclip2.executors.cluster import Cluster
from mobileclip2.executors.kubernetes import RESTARTS, KubernetesExecutor
from mobileclip2.executors.metrics import watch
from tests.cluster import FakeCluster, Object
from tests.waiting import until

NAME = "student-0123"


class Interrupt(BaseException):
    """Stands for the exception that Dagster raises in a step whose process gets SIGTERM."""


class Training:
    """Runs a training in another thread. Its pods succeed when ``done`` exists, and fail when ``broken`` exists."""

    def __init__(self, cluster: FakeCluster, folder: Path, pods: int, gpus: int, **settings: Any) -> None:
        self.cluster, self.done, self.broken = cluster, folder / "done", folder / "broken"
        stages = {"student": {"pods": pods, "gpus": gpus}}
        self.executor = KubernetesExecutor(Kubernetes(image="i", stages=stages, **settings))
        self.executor.poll = 0.05
        self.ended = self.resumes = False
        status = SimpleNamespace(is_ended=lambda: self.ended, will_resume=lambda: self.resumes)
        self.batch: Any = SimpleNamespace(
            asset=SimpleNamespace(key="student/a", stage="student", trains=True),
            group=str(folder),
            profile=SimpleNamespace(compute=ComputeSettings()),
            run_status=status,
            pipeline=SimpleNamespace(storage=SimpleNamespace(url="store")),
        )
        self.error: BaseException | None = None
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        spec: Any = SimpleNamespace(name=NAME, store="store", key="key")
        try:
            self.executor._run_unsharded(self.batch, spec)
        except BaseException as error:
            self.error = error

    @property
    def script(self) -> str:
        loop = f"while true; do sleep 0.05; [ -e {self.done} ] && exit 0; [ -e {self.broken} ] && exit 1; done"
        return f"trap 'exit 143' TERM; echo up; {loop}"

    def start(self) -> Training:
        self.thread.start()
        return self

    def pods(self, count: int) -> list[Object]:
        """Wait for ``count`` running pods and return them."""

        until(lambda: len(self._up()) == count or self.error)
        assert not self.error, self.error
        return self._up()

    def pods_of_the_cluster(self, count: int) -> list[Object]:
        """Do the same as :meth:`pods`, after the end of the run."""
        until(lambda: len(self._up()) == count)
        return self._up()

    def _up(self) -> list[Object]:
        running = [pod for pod in self.cluster.pods("Running") if "deletionTimestamp" not in pod["metadata"]]
        return [pod for pod in running if "up" in self.cluster.log(pod["metadata"]["name"], {})]

    def end(self) -> None:
        self.thread.join(240)
        assert not self.thread.is_alive(), "it waits without end"
        if self.error:
            raise self.error

    @property
    def job(self) -> Object:
        return self.cluster.objects["jobs"][NAME]


Train = Callable[..., Training]


@pytest.fixture
def train(emptied: FakeCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Train]:
    monkeypatch.setenv("KUBECONFIG", str(emptied.kubeconfig))
    monkeypatch.setattr("mobileclip2.executors.lost_nodes.SLACK_SECONDS", 0.3, raising=False)
    emptied.grace_seconds = 1.0
    started: list[Training] = []
    whole = kubernetes.unsharded_job

    def of_shells(*some: Any, **more: Any) -> Object:
        job = whole(*some, **more)
        (container,) = job["spec"]["template"]["spec"]["containers"]
        container["command"] = ["sh", "-c", started[-1].script]
        return job

    monkeypatch.setattr(kubernetes, "unsharded_job", of_shells)

    def train(pods: int = 2, gpus: int = 1, **settings: Any) -> Training:
        started.append(Training(emptied, tmp_path, pods, gpus, **settings))
        return started[-1].start()

    yield train
    for training in started:
        training.done.touch()
        training.ended = True
        training.thread.join(240)
        assert not training.thread.is_alive()


def test_more_evictions_than_restarts_do_not_end_a_training(train: Train) -> None:
    training = train()
    for _ in range(RESTARTS + 2):
        pod = training.pods(2)[1]
        training.cluster.evict(pod)
        until(lambda gone=pod: gone not in training.cluster.pods())
    training.pods(2)
    training.done.touch()
    training.end()
    assert len(training.cluster.everything) == 2 * (RESTARTS + 3)
    assert watch(training.batch).retries == RESTARTS + 2


def test_failures_end_a_training_and_its_last_job_stays(train: Train) -> None:
    training = train()
    training.pods(2)
    training.broken.touch()
    with pytest.raises(kubernetes._Failed, match=r"reached the specified backoff limit") as failed:
        training.end()
    assert "store/.logs/student-0123" in failed.value.message and "ended with 1" in failed.value.message
    assert not failed.value.disrupted and training.job["status"]["conditions"][-1]["type"] == "Failed"
    names = {pod["metadata"]["ownerReferences"][0]["uid"] for pod in training.cluster.everything}
    assert len(names) == RESTARTS + 1


def test_a_training_restarts_without_the_lost_node(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    training = train(gpus=2)
    training.cluster.nodes["three"] = 2
    lost = training.pods(2)[1]
    node = lost["spec"]["nodeName"]
    training.cluster.lose_node(node)
    until(lambda: len(training.cluster.everything) == 4)
    assert {pod["spec"]["nodeName"] for pod in training.pods(2)} == {"one", "two", "three"} - {node}
    assert lost in training.cluster.pods(), "the cluster itself keeps it"
    training.done.touch()
    training.end()
    assert f"no answer from node {node}" in caplog.text
    assert f"kubectl taint nodes {node} node.kubernetes.io/out-of-service=nodeshutdown:NoExecute" in caplog.text


def test_a_lost_node_uses_no_restart_when_peers_fail_first(train: Train) -> None:
    training = train(gpus=2)
    training.cluster.nodes["three"] = 2
    for life in range(1, RESTARTS + 2):
        peer, lost = training.pods(2)
        training.cluster.lose_node(lost["spec"]["nodeName"])
        training.cluster.kill(peer)
        until(lambda pods=2 * life: len(training.cluster.everything) > pods)
        training.pods(2)
        training.cluster.remove_node(lost["spec"]["nodeName"])
    training.done.touch()
    training.end()


def test_a_pod_that_must_not_run_twice_waits_for_its_node(train: Train, caplog: pytest.LogCaptureFixture) -> None:
    """The processes of a node that does not answer may still write checkpoints."""
    training = train(pods=1)
    (pod,) = training.pods(1)
    training.cluster.lose_node(pod["spec"]["nodeName"], running=True)
    until(lambda: "no answer from node" in caplog.text)
    assert len(training.cluster.everything) == 1
    training.cluster.remove_node(pod["spec"]["nodeName"])
    training.pods(1)
    training.done.touch()
    training.end()


def test_an_unresponsive_node_is_an_error_after_start_minutes(train: Train) -> None:
    training = train(pods=1, start_minutes=0.02)
    (pod,) = training.pods(1)
    training.cluster.lose_node(pod["spec"]["nodeName"])
    with pytest.raises(ComputeError, match=rf"no answer from node {pod['spec']['nodeName']} with the pods {NAME}"):
        training.end()
    assert training.job["status"]["terminating"] == 1, "the Job stays, so that the next run waits for the node too"
    training.cluster.remove_node(pod["spec"]["nodeName"])
    until(lambda: [each["type"] for each in training.job["status"].get("conditions", [])][-1:] == ["Failed"])


@pytest.mark.parametrize("disrupted", [True, False])
def test_a_jobset_restarts_a_training_without_its_run(train: Train, disrupted: bool) -> None:
    """The JobSet controller applies the rule of restarts, so that no step process is needed."""
    training = train(jobset=True)
    training.pods(2)
    training.resumes = True
    training.executor.cluster.read = lambda *_: (_ for _ in ()).throw(Interrupt())  # type: ignore[method-assign]
    with pytest.raises(Interrupt):
        training.end()
    lives = RESTARTS + 2 if disrupted else RESTARTS
    for _ in range(lives):
        pod = training.pods_of_the_cluster(2)[1]
        (training.cluster.evict if disrupted else training.cluster.kill)(pod)
        until(lambda gone=pod: gone not in training.cluster.pods())
    training.pods_of_the_cluster(2)
    again = train(jobset=True)
    again.done.touch()
    again.end()
    assert len(training.cluster.everything) == 2 * (lives + 1)
    assert not training.cluster.objects["services"], "a JobSet has its own"


def test_a_jobset_that_has_used_its_restarts_fails_the_run(train: Train) -> None:
    training = train(jobset=True)
    training.pods(2)
    training.broken.touch()
    with pytest.raises(kubernetes._Failed, match=r"jobset failed(.|\n)*ended with 1"):
        training.end()
    assert len({pod["metadata"]["ownerReferences"][0]["uid"] for pod in training.cluster.everything}) == RESTARTS + 1
    assert 0 < watch(training.batch).retries <= RESTARTS, "a poll can miss a Job that lives as briefly as here"


def test_a_jobset_restarts_without_the_lost_node(train: Train) -> None:
    training = train(jobset=True, gpus=2)
    training.cluster.nodes["three"] = 2
    lost = training.pods(2)[1]
    training.cluster.lose_node(lost["spec"]["nodeName"])
    until(lambda: len(training.cluster.everything) == 4)
    training.pods(2)
    training.done.touch()
    training.end()


@pytest.mark.parametrize("resumes", [True, False])
def test_only_the_end_of_the_run_deletes_its_job(train: Train, resumes: bool) -> None:
    """The drain of the step's node interrupts the step, and another pod continues it."""
    training = train()
    training.pods(2)
    training.resumes = resumes
    read = training.executor.cluster.read

    def interrupted(kind: str, name: str) -> Any:
        raise Interrupt

    training.executor.cluster.read = interrupted  # type: ignore[method-assign]
    with pytest.raises(Interrupt):
        training.end()
    assert (NAME in training.cluster.objects["jobs"]) == resumes
    if resumes:
        training.executor.cluster.read = read  # type: ignore[method-assign]
        again = train()
        again.pods(2)
        again.done.touch()
        again.end()
        assert len(training.cluster.everything) == 2, "the next process takes the Job over"


def test_a_run_that_is_ended_deletes_its_job(train: Train) -> None:
    training = train()
    training.pods(2)
    training.ended = True
    with pytest.raises(ComputeError, match="the run was ended"):
        training.end()
    assert NAME not in training.cluster.objects["jobs"]


def test_a_partly_scheduled_training_frees_its_gpus(train: Train) -> None:
    training = train(gpus=2, pods=3, start_minutes=0.03)
    training.pods(2)
    with pytest.raises(ComputeError, match=r"only 2 of 3 pods could start in 0\.03 minutes: 0/2 nodes .* Insufficient"):
        training.end()
    until(lambda: not training.cluster.pods())


@pytest.mark.parametrize(
    "why",
    [
        'pods "x-" is forbidden: no PriorityClass with name high was found',
        'pods "x-" is forbidden: error looking up service account mobileclip2/a: serviceaccount "a" not found',
        'pods "x-" is forbidden: exceeded quota: q, requested: requests.cpu=9, used: requests.cpu=0, limited: requests.cpu=8',
    ],
)
def test_refused_pods_fail_the_run_at_once(train: Train, emptied: FakeCluster, why: str) -> None:
    emptied.faults.refuse = lambda pod: why
    with pytest.raises(ComputeError) as raised:
        train().end()
    assert f"the cluster refuses its pods: Error creating: {why}" in str(raised.value)


def test_a_training_waits_for_an_exhausted_quota(train: Train, emptied: FakeCluster) -> None:
    quota = "exceeded quota: q, requested: requests.nvidia.com/gpu=1, used: requests.nvidia.com/gpu=8, "
    emptied.faults.refuse = lambda pod: f'pods "x-" is forbidden: {quota}limited: requests.nvidia.com/gpu=8'
    training = train()
    until(lambda: any("/events" in request for request in emptied.requests))
    emptied.faults.refuse = lambda pod: None
    training.pods(2)
    training.done.touch()
    training.end()


def test_the_service_is_deleted_with_its_job(train: Train) -> None:
    training = train()
    training.pods(2)
    first = training.cluster.objects["services"][NAME]
    assert first["metadata"]["ownerReferences"][0]["uid"] == training.job["metadata"]["uid"]
    training.cluster.evict(training.pods(2)[0])
    until(lambda: len(training.cluster.everything) == 4)
    training.pods(2)
    second = training.cluster.objects["services"][NAME]
    assert second["spec"]["selector"] == {"batch.kubernetes.io/controller-uid": training.job["metadata"]["uid"]}
    assert second["metadata"]["uid"] != first["metadata"]["uid"]
    training.done.touch()
    training.end()
    until(lambda: not training.cluster.objects["services"])


def test_the_next_run_creates_the_missing_service_of_a_killed_run(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    create = Cluster.create

    def killed(self: Cluster, manifest: Object) -> bool:
        if manifest["kind"] == "Service":
            raise Interrupt
        return create(self, manifest)

    with monkeypatch.context() as patch:
        patch.setattr(Cluster, "create", killed)
        first = train()
        first.resumes = True
        with pytest.raises(Interrupt):
            first.end()
    assert not first.cluster.objects["services"]
    second = train()
    second.pods(2)
    until(lambda: second.cluster.objects["services"])
    second.done.touch()
    second.end()

"""Materialize the whole graph through Dagster's API, as the UI's "Materialize" does.

The run launcher, the step executor and the Indexed Jobs use the fake cluster.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.backfill import failures_of
from pipelines.graphql import Server
from pipelines.remote import evaluate_remotely
from tests.cluster import FakeCluster, Faults, Object
from tests.mobileclip2.executors.gate import Gate, manifests
from tests.pipelines.server import FAST_DAEMON, Dagster
from tests.pipelines.small import edited, one_of_each
from tests.postgres import binaries, server
from tests.ui.server import free_port
from tests.waiting import until

pytestmark = [pytest.mark.slow, pytest.mark.skipif(binaries() is None, reason="PostgreSQL is not installed")]

ROOT = Path(__file__).parents[3]

# Without a rate, a group has four chunks per pod, so every shard of a small group has a pod of its own.
COMPUTE = """
rates: {teacher_embeddings: 0.02, raw_shards: 1000, augmentations: 1000, reinforced_dataset: 1000, synthetic_captions: 1000}
compute:
  kubernetes:
    image: tests
    stages:
      teacher_embeddings: {pods: 4, gpus: 1, node_selector: {gpu: l4}, tolerations: [{key: spot}], priority: low}
      synthetic_captions: {pods: 2, gpus: 1}
      captioner: {gpus: 0}
      teacher: {gpus: 0}
      student: {gpus: 0}
      evaluation: {gpus: 0}
"""

ASSETS = "query Assets { assetNodes { assetKey { path } isMaterializable } }"
MATERIALISE = """
mutation Materialize($parameters: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $parameters) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}
"""
BACKFILL = """
query Backfill($backfill: String!) {
  partitionBackfillOrError(backfillId: $backfill) {
    __typename
    ... on PartitionBackfill { status error { message } }
  }
}
"""
TERMINATE = "mutation Terminate($run: String!) { terminateRun(runId: $run) { __typename } }"
RUNS = "query Runs { runsOrError { ... on Runs { results { runId jobName status } } } }"
LOG = """
query Log($run: ID!) {
  logsForRun(runId: $run) { ... on EventConnection { events { ... on MessageEvent { message } } } }
}
"""


def settings(cluster: FakeCluster, home: Path, database: dict[str, Any]) -> dict[str, Any]:
    """Return ``dagster.yaml`` as Dagster's chart writes it from our values.

    The addresses of the cluster and the database differ, and the intervals are short.
    """
    values = yaml.safe_load((ROOT / "k8s" / "dagster.yaml").read_text())
    launcher, daemon = values["runLauncher"]["config"]["k8sRunLauncher"], values["dagsterDaemon"]
    given = launcher["runK8sConfig"]
    monitoring, retries = daemon["runMonitoring"], daemon["runRetries"]
    queue = daemon["runCoordinator"]["config"]["queuedRunCoordinator"]
    return {
        "telemetry": {"enabled": False},
        "storage": {"postgres": {"postgres_db": database}},
        "run_launcher": {
            "module": "dagster_k8s",
            "class": "K8sRunLauncher",
            "config": {
                "load_incluster_config": False,
                "kubeconfig_file": str(cluster.kubeconfig),
                "job_namespace": "mobileclip2",
                "service_account_name": values["global"]["serviceAccountName"],
                "dagster_home": str(home),
                "instance_config_map": "dagster-instance",
                "image_pull_policy": launcher["imagePullPolicy"],
                "resources": launcher["resources"],
                "run_k8s_config": {
                    "pod_spec_config": given["podSpecConfig"],
                    # without 'env', because the webserver has another address here
                    "container_config": {"securityContext": given["containerConfig"]["securityContext"]},
                    "job_spec_config": given["jobSpecConfig"],
                },
                "env_vars": [
                    f"KUBECONFIG={cluster.kubeconfig}",
                    "DAGSTER_STEP_DELEGATING_EXECUTOR_SLEEP_SECONDS=0.5",
                ],
            },
        },
        "run_coordinator": {
            "module": "dagster.core.run_coordinator",
            "class": values["dagsterDaemon"]["runCoordinator"]["type"],
            "config": {"max_concurrent_runs": queue["maxConcurrentRuns"], "dequeue_interval_seconds": 1},
        },
        "run_monitoring": {
            "enabled": monitoring["enabled"],
            "max_resume_run_attempts": monitoring["maxResumeRunAttempts"],
            "free_slots_after_run_end_seconds": monitoring["freeSlotsAfterRunEndSeconds"],
            "start_timeout_seconds": monitoring["startTimeoutSeconds"],
            "poll_interval_seconds": 1,
        },
        "run_retries": {
            "enabled": retries["enabled"],
            "max_retries": retries["maxRetries"],
            "retry_on_asset_or_op_failure": retries["retryOnAssetOrOpFailure"],
        },
    }


@pytest.fixture(scope="module")
def profile(request: pytest.FixtureRequest, tiny_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    profile = Path(shutil.copytree(tiny_template, tmp_path_factory.mktemp("graph") / "tiny")) / "tiny.yaml"
    if not request.config.getoption("--whole"):
        edited(profile, one_of_each)
    profile.write_text(profile.read_text() + COMPUTE)
    return profile


@pytest.fixture(scope="module")
def expected(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return the manifests that one machine writes."""
    local = Path(shutil.copytree(profile.parent, tmp_path_factory.mktemp("local") / "tiny")) / profile.name
    pipeline = Pipeline(load(local))
    for asset, group in pipeline.stale():
        pipeline.materialize(asset.key, group)
    return manifests(local)


def on_cluster(cluster: FakeCluster, profile: Path, home: Path, stack: ExitStack) -> Dagster:
    """Start Dagster with PostgreSQL and a daemon. Its runs and steps are pods of the cluster."""
    # The chart passes the environment to runs in this way because of 'includeConfigInLaunchedRuns'.
    url = f"http://127.0.0.1:{free_port()}"
    environment = {
        "MOBILECLIP2_PROFILE": str(profile),
        "MOBILECLIP2_CACHE": str(home / "cache"),
        "MOBILECLIP2_DAGSTER": url,
    }
    env = [{"name": name, "value": value} for name, value in environment.items()]
    context = json.dumps({"k8s": {"namespace": "mobileclip2", "env": env}})
    code = ("--container-image", "tests", "--container-context", context)
    written = home / "settings.yaml"
    written.write_text(yaml.safe_dump(settings(cluster, home, stack.enter_context(server()))))
    return Dagster(profile, home, stack, written, code, FAST_DAEMON, url).with_daemon()


@pytest.fixture(scope="module")
def dagster(running: FakeCluster, profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    running.faults = Faults()
    running.everything.clear()
    home = tmp_path_factory.mktemp("dagster")
    with ExitStack() as stack:
        yield on_cluster(running, profile, home, stack)
    with running.lock:  # Dagster does not delete its finished Jobs
        for name in list(running.objects["jobs"]):
            running.delete("jobs", name)


def ask(dagster: Dagster, query: str, **variables: object) -> Any:
    (answer,) = Server(dagster.url).ask(query, **variables).values()
    return answer


def materialize(dagster: Dagster, keys: list[dict[str, Any]] | None = None) -> str:
    """Start a backfill of some or all assets in every partition, as the UI does. Return its ID."""
    keys = keys or [node["assetKey"] for node in ask(dagster, ASSETS) if node["isMaterializable"]]
    launched = ask(dagster, MATERIALISE, parameters={"assetSelection": keys, "allPartitions": True})
    assert launched["__typename"] == "LaunchBackfillSuccess", launched
    return str(launched["backfillId"])


def wait(dagster: Dagster, backfill: str, seconds: float = 500) -> None:
    until = time.monotonic() + seconds
    while True:
        found = ask(dagster, BACKFILL, backfill=backfill)
        if found["status"].startswith("COMPLETED"):
            assert found["status"] == "COMPLETED_SUCCESS", (runs(dagster), failures_of(Server(dagster.url), backfill))
            return
        assert found["status"] in {"REQUESTED", "COMPLETING"}, found
        assert time.monotonic() < until, (runs(dagster), (dagster.folder / "log").read_text()[-4000:])
        time.sleep(1)


def runs(dagster: Dagster) -> list[dict[str, str]]:
    return list(ask(dagster, RUNS)["results"])


def messages(dagster: Dagster, run: str) -> list[str]:
    return [event.get("message", "") for event in ask(dagster, LOG, run=run)["events"]]


def of_component(cluster: FakeCluster, component: str) -> list[Object]:
    return [pod for pod in cluster.everything if pod["metadata"]["labels"]["app.kubernetes.io/component"] == component]


def forget(profile: Path, asset: str) -> None:
    """Delete the artifacts and the measured rate of an asset. With that rate, such a small group would be one chunk."""
    store = profile.parent / "store"
    shutil.rmtree(store / asset)
    (store / ".scratch" / "times" / f"{asset.replace('/', '.')}.jsonl").unlink()


def test_the_whole_graph_gives_the_manifests_of_one_machine(running, dagster, profile, expected, request):
    wait(dagster, materialize(dagster), 3000 if request.config.getoption("--whole") else 500)
    assert manifests(profile) == expected
    assert {run["status"] for run in runs(dagster)} == {"SUCCESS"}
    stages = {asset.stage for asset in Pipeline(load(profile)).graph.values()}
    made = {pod["metadata"]["labels"]["app.kubernetes.io/component"] for pod in running.everything}
    assert made == {"run_worker", "step_worker", *stages}
    check_settings_of_pods(running)


def check_settings_of_pods(running: FakeCluster) -> None:
    """Check that settings of a stage apply to its pods, and not to the pods of steps."""
    for pod in of_component(running, "teacher_embeddings"):
        spec = pod["spec"]
        assert spec["nodeSelector"] == {"gpu": "l4"} and spec["priorityClassName"] == "low"
        assert spec["tolerations"] == [{"key": "spot", "operator": "Exists"}]
        assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 1
    waiting = [*of_component(running, "run_worker"), *of_component(running, "step_worker")]
    for pod in waiting:
        (container,) = pod["spec"]["containers"]
        assert container["resources"] == {"requests": {"cpu": "500m", "memory": "3Gi"}, "limits": {"memory": "6Gi"}}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert pod["spec"]["securityContext"]["runAsNonRoot"] and pod["spec"]["serviceAccountName"] == "mobileclip2"
        assert not {"nodeSelector", "tolerations"} & set(pod["spec"])
        assert running.objects["jobs"][pod["metadata"]["ownerReferences"][0]["name"]]["spec"]["backoffLimit"] == 0


def test_a_killed_run_is_resumed_and_adopts_its_jobs(running, dagster, profile, expected, tmp_path):
    forget(profile, "teacher_embeddings/wide/image")
    gate = Gate(running, tmp_path, at=1)
    before = len(of_component(running, "run_worker")), len(of_component(running, "teacher_embeddings"))
    backfill = materialize(dagster, [{"path": ["teacher_embeddings.wide.image"]}])
    gate.wait_for(4)
    (worker,) = of_component(running, "run_worker")[before[0] :]
    run = worker["metadata"]["labels"]["dagster/run-id"]
    until(lambda: any("pods 4, GPUs 4" in message and "s left" in message for message in messages(dagster, run)))
    running.kill(worker)
    until(lambda: len(of_component(running, "run_worker")) == before[0] + 2)
    resumed = of_component(running, "run_worker")[-1]
    assert resumed["metadata"]["labels"]["job-name"] == f"dagster-run-{run}-1"
    gate.open()
    wait(dagster, backfill)
    running.faults = Faults()
    assert manifests(profile) == expected
    assert len(of_component(running, "teacher_embeddings")) == before[1] + 4 and gate.repeated == 0
    print(f"the run's worker killed: {gate.repeated} of {len(gate.computed())} files computed again")


def group_at_gate(running: FakeCluster, dagster: Dagster, profile: Path, folder: Path) -> tuple[Gate, str, str]:
    """Start a group whose pods all wait. Return the gate, the backfill ID and the run ID."""
    forget(profile, "teacher_embeddings/wide/image")
    gate, before = Gate(running, folder, at=1), len(of_component(running, "step_worker"))
    backfill = materialize(dagster, [{"path": ["teacher_embeddings.wide.image"]}])
    gate.wait_for(4)
    until(lambda: len(of_component(running, "step_worker")) > before)
    return gate, backfill, of_component(running, "step_worker")[before]["metadata"]["labels"]["dagster/run-id"]


def step_pods(cluster: FakeCluster, run: str) -> list[Object]:
    return [pod for pod in of_component(cluster, "step_worker") if pod["metadata"]["labels"]["dagster/run-id"] == run]


def test_a_step_evicted_from_a_drained_node_adopts_its_job(running, dagster, profile, expected, tmp_path, monkeypatch):
    """An eviction sends SIGTERM, which raises an exception in the step."""
    before = len(of_component(running, "teacher_embeddings"))
    gate, backfill, run = group_at_gate(running, dagster, profile, tmp_path)
    names = {name for name in running.objects["jobs"] if name.startswith("teacher-embeddings")}
    (step,) = step_pods(running, run)
    with monkeypatch.context() as patch:
        patch.setattr(running, "grace_seconds", 30.0)
        running.evict(step)
        until(lambda: len(step_pods(running, run)) == 2)
    assert step["status"]["phase"] in {"Failed", "Succeeded"}
    assert running.objects["jobs"].keys() >= names, "the step deleted its Job"
    running.requests.clear()
    until(
        lambda: any(request.startswith("GET") and request.rpartition("/")[2] in names for request in running.requests)
    )
    gate.open()
    wait(dagster, backfill)
    running.faults = Faults()
    assert manifests(profile) == expected
    assert len(of_component(running, "teacher_embeddings")) == before + 4 and gate.repeated == 0


def test_terminating_a_run_in_the_ui_deletes_its_job(running, dagster, profile, expected, tmp_path):
    gate, _, run = group_at_gate(running, dagster, profile, tmp_path)
    names = {name for name in running.objects["jobs"] if name.startswith("teacher-embeddings")}
    assert names
    assert ask(dagster, TERMINATE, run=run)["__typename"] == "TerminateRunSuccess"
    until(lambda: not names & set(running.objects["jobs"]))
    gate.open()
    running.faults = Faults()
    wait(dagster, materialize(dagster, [{"path": ["teacher_embeddings.wide.image"]}]))
    assert manifests(profile) == expected


def test_a_missing_evaluation_is_backfilled_before_the_gate(running, dagster, profile, expected, capsys):
    """Run monitoring checks every second here. It would fail a run that has no Job of its own."""
    forget(profile, "evaluation/pupil")
    before, known = len(of_component(running, "run_worker")), {run["runId"] for run in runs(dagster)}
    assert evaluate_remotely(Server(dagster.url), "pupil", "wide", None, 5, None) in {0, 3}
    assert capsys.readouterr().out.startswith("### pupil against wide")
    assert manifests(profile) == expected
    new = {run["runId"]: run for run in runs(dagster) if run["runId"] not in known}
    assert sorted((run["jobName"], run["status"]) for run in new.values()) == [
        ("__ASSET_JOB", "SUCCESS"),
        ("evaluate", "SUCCESS"),
        ("evaluate", "SUCCESS"),
    ]
    workers = of_component(running, "run_worker")[before:]
    assert {pod["metadata"]["labels"]["dagster/run-id"] for pod in workers} == new.keys() and len(workers) == 3

"""A group that an Indexed Job computes on the fake cluster, also with faults, has the manifests of one machine."""

import json
import shutil
import threading
import time
import urllib.request
from collections import Counter
from pathlib import Path

import dagster as dg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from assets.keys import dagster_key
from mobileclip2.asset_key import AssetKey, Partition
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import ComputeError, ShardError, UserError
from mobileclip2.executors import executor_of
from mobileclip2.executors.messages import StepReport, parse_output
from pipelines.definitions import definitions_of
from pipelines.run import materialize
from tests.cluster import FakeCluster, Faults
from tests.mobileclip2.executors.gate import Gate, manifests
from tests.s3 import FaultyS3
from tests.ui.server import free_port
from tests.waiting import until

pytestmark = pytest.mark.slow

ASSET = "teacher_embeddings/wide/image"
SHARDS = 8
"""Shards of the group. A chunk has two shards, and a shard has two views."""
VIEWS = 2
SETTINGS = """
rates: {teacher_embeddings: 0.026}
compute:
  kubernetes:
    image: tests
    stages: {teacher_embeddings: {pods: 4, gpus: 1}, raw_shards: {pods: 2}}
"""


@pytest.fixture
def cluster(emptied, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", str(emptied.kubeconfig))
    monkeypatch.setattr("mobileclip2.executors.kubernetes.POLL_SECONDS", 0.1)
    return emptied


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """Return a tiny pipeline with the inputs of one group's embeddings, and the manifests that one machine writes."""
    from tests.tiny import make_tiny

    profile = make_tiny(tmp_path_factory.mktemp("tiny"), shards=2 * SHARDS, samples=4)
    profile.write_text(profile.read_text() + SETTINGS)
    pipeline = Pipeline(load(profile))
    pipeline.materialize("raw_shards", "g00")
    pipeline.materialize("augmentations", "g00")
    pipeline.materialize("teacher/wide")
    local = Path(shutil.copytree(profile.parent, tmp_path_factory.mktemp("local") / "tiny")) / profile.name
    Pipeline(load(local)).materialize(ASSET, "g00")
    return profile, manifests(local)


@pytest.fixture
def pipeline(prepared, tmp_path):
    profile = Path(shutil.copytree(prepared[0].parent, tmp_path / "tiny")) / prepared[0].name
    return on_cluster(profile)


@pytest.fixture
def expected(prepared):
    return prepared[1]


def on_cluster(profile):
    loaded = load(profile)
    return Pipeline(loaded, executor_of(loaded))


def stored(pipeline):
    return manifests(Path(pipeline.profile.folder) / "tiny.yaml")


class Running:
    """Materializes in another thread."""

    def __init__(self, pipeline, asset=ASSET, group="g00"):
        self.steps, self.error = [], None
        self.thread = threading.Thread(target=self._run, args=(pipeline, asset, group))
        self.thread.start()

    def _run(self, pipeline, asset, group):
        try:
            self.done = pipeline.materialize(asset, group, self.steps.append)
        except UserError as error:
            self.error = error

    def end(self, seconds=300):
        self.thread.join(seconds)
        assert not self.thread.is_alive(), "hung"
        if self.error:
            raise self.error
        return self.done


def test_a_group_gives_the_manifests_of_one_machine(cluster, pipeline, expected, tmp_path):
    gate = Gate(cluster, tmp_path)
    run = Running(pipeline)
    gate.wait_for(4 * 3)
    assert len(cluster.pods("Running")) == 4, "one GPU a pod, four GPUs"
    until(lambda: any(step.numbers.get("pods") == 4 and step.done == 4 for step in run.steps))
    gate.open()
    assert run.end().computed == ["view-0", "view-1"]
    assert stored(pipeline) == expected
    assert gate.repeated == 0
    last = run.steps[-1]
    assert (last.done, last.total, last.unit) == (SHARDS, SHARDS, "shards") and last.numbers["samples/s"] > 0
    assert not list((Path(pipeline.storage.url) / ".orders").iterdir())


TEMPLATE = """
    pod_template:
      metadata: {labels: {team: vision}}
      spec: {schedulerName: volcano, containers: [{name: work, env: [{name: NCCL_DEBUG, value: INFO}]}]}
"""


def test_a_run_serves_metrics_while_its_pods_follow_a_template(cluster, pipeline, expected, tmp_path, monkeypatch):
    monkeypatch.setattr("mobileclip2.executors.metrics._watched", {})
    port = free_port()
    profile = Path(pipeline.profile.folder) / "tiny.yaml"
    text = profile.read_text().replace("    image: tests\n", f"    image: tests{TEMPLATE}")
    profile.write_text(text.replace("compute:\n", f"compute:\n  metrics: {{port: {port}}}\n"))
    pipeline = on_cluster(profile)
    gate = Gate(cluster, tmp_path)
    run = Running(pipeline)
    gate.wait_for(4 * 3)
    until(lambda: scrape(port).get("oldest_chunk_seconds", 0) > 0)
    cluster.kill(cluster.pods("Running")[0])
    until(lambda: scrape(port)["retries_total"] == 1)
    found = scrape(port)
    assert (found["shards"], found["shards_finished"]) == (SHARDS, 4) and found["gpus"] in {3, 4}
    assert found["samples_total"] == (SHARDS * 4 - 1) / 2 and found["gpu_seconds_total"] > 0
    gate.open()
    run.end()
    assert stored(pipeline) == expected
    found = scrape(port)
    assert found["shards_finished"] == SHARDS and found["samples_total"] == SHARDS * 4 - 1
    assert found["gpus"] == found["oldest_chunk_seconds"] == 0, "no pod runs any more"
    for pod in cluster.everything:
        assert pod["metadata"]["labels"]["team"] == "vision" and pod["spec"]["schedulerName"] == "volcano"


def scrape(port):
    """Return the metrics of ``ASSET`` by their names without the prefix."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        sample.name.removeprefix("mobileclip2_"): sample.value
        for family in families
        for sample in family.samples
        if sample.labels == {"stage": "teacher_embeddings", "asset": ASSET, "group": "g00"}
    }


def test_killed_and_evicted_pods_lose_only_the_current_shard(cluster, pipeline, expected, tmp_path):
    gate = Gate(cluster, tmp_path)
    run = Running(pipeline)
    gate.wait_for(4 * 3)
    killed, *evicted = cluster.pods("Running")[:3]
    cluster.kill(killed)
    for pod in evicted[:2]:
        cluster.evict(pod)
    until(lambda: all(pod["status"]["phase"] == "Failed" for pod in (killed, *evicted)))
    gate.open()
    run.end()
    assert stored(pipeline) == expected
    print(f"3 of 4 pods lost: {gate.repeated} of {SHARDS * VIEWS} files computed again")
    assert 1 <= gate.repeated <= 3 * VIEWS
    assert len(cluster.everything) == 4 + 3
    logs = {path.stem for path in Path(pipeline.storage.url).glob(".logs/*/*.log")}
    assert {pod["metadata"]["name"] for pod in evicted[:2]} <= logs, "the cluster has no log of an evicted pod any more"


def test_repeated_evictions_use_no_retry(cluster, pipeline, expected, tmp_path):
    """There are more evictions than retries of a chunk."""
    gate = Gate(cluster, tmp_path, at=1)
    run = Running(pipeline)
    for life in range(1, 6):
        gate.wait_for(4 * life)
        for pod in cluster.pods("Running"):
            cluster.evict(pod)
    gate.open()
    run.end()
    assert stored(pipeline) == expected
    assert gate.repeated <= 5 * 4 * VIEWS


def test_the_chunks_of_a_lost_node_start_again_elsewhere(cluster, pipeline, expected, tmp_path, monkeypatch, caplog):
    """Two of four pods are on a node that stops in the middle of a shard and never answers again."""
    monkeypatch.setattr("mobileclip2.executors.lost_nodes.SLACK_SECONDS", 0.3)
    cluster.grace_seconds = 1.0
    gate = Gate(cluster, tmp_path)
    run = Running(pipeline)
    gate.wait_for(4 * 3)
    cluster.lose_node("one")
    gate.open()
    run.end()
    assert stored(pipeline) == expected
    assert "no answer from node one" in caplog.text
    assert len([pod for pod in cluster.pods() if pod["spec"]["nodeName"] == "one"]) == 2, "they still terminate"


def test_a_chunk_that_always_dies_fails_the_run(cluster, pipeline, tmp_path):
    gate = Gate(cluster, tmp_path, at=1)
    run = Running(pipeline)
    deadline = time.monotonic() + 240
    while run.thread.is_alive() and time.monotonic() < deadline:
        for pod in cluster.pods("Running"):
            if pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] == "0":
                cluster.kill(pod)
            elif gate.path.exists():
                gate.open()
        time.sleep(0.05)
    with pytest.raises(
        ComputeError, match=r"the Job teacher-embeddings-\w+ failed: Job has failed indexes(.|\n)*137 \(OOMK"
    ):
        run.end(1)
    assert len([pod for pod in cluster.everything if pod["metadata"]["annotations"].popitem()[1] == "0"]) == 1 + 3
    (job,) = cluster.objects["jobs"].values()
    assert job["status"]["failedIndexes"] == "0", "the failed Job stays until its time to live"


def test_permanent_errors_match_those_of_a_single_machine(cluster, pipeline):
    profile = Path(pipeline.profile.folder) / "tiny.yaml"
    profile.write_text(profile.read_text().replace("max_bad_share: 0.3", "max_bad_share: 0.01"))
    shutil.rmtree(pipeline.storage.url)
    refused = on_cluster(profile)
    with pytest.raises(UserError, match=r"00000\.tar: .*more than the accepted 1\.0%") as raised:
        refused.materialize("raw_shards", "g00")
    assert not isinstance(raised.value, ShardError | ComputeError) and "truncated-image: 1" in str(raised.value)
    assert len(cluster.everything) <= SHARDS, "tried again what will not change"


@pytest.mark.parametrize("fault", ["answer", "cut"])
def test_every_other_response_is_an_error_or_truncated(cluster, pipeline, expected, tmp_path, fault):
    """These include the responses to create and log requests."""
    counts = Counter()

    def every_other(method, path):
        counts[method] += 1
        if not counts[method] % 2:
            return None
        return fault == "cut" or (500, 503, 429, 409)[counts[method] // 2 % 4]

    setattr(cluster.faults, fault, every_other)
    pipeline.compute.cluster.pause = 0.02
    gate = Gate(cluster, tmp_path)
    run = Running(pipeline)
    gate.wait_for(4 * 3)
    gate.open()
    run.end()
    assert stored(pipeline) == expected and gate.repeated == 0
    assert len(cluster.everything) == 4
    if fault == "answer":
        assert counts["POST"] > 1 and counts["GET"] >= 8, "the server did not give each of the four answers"


def test_a_temporary_conflict_is_retried(cluster, pipeline, expected):
    """The server returns 409 for a new Job and for a deletion."""
    refused = Counter()

    def conflict(method, path):
        refused[method] += 1
        return 409 if method in {"POST", "DELETE"} and refused[method] <= 2 else None

    cluster.faults.answer = conflict
    pipeline.compute.cluster.pause = 0.02
    Running(pipeline).end()
    assert stored(pipeline) == expected
    assert refused["POST"] == refused["DELETE"] == 3 and len(cluster.everything) == 4


def test_a_lost_response_to_a_create_makes_no_second_job(cluster, pipeline, expected):
    lost = []
    cluster.faults.lose = lambda method, path: 500 if method == "POST" and not lost and not lost.append(1) else None
    pipeline.compute.cluster.pause = 0.02
    Running(pipeline).end()
    assert stored(pipeline) == expected
    assert sum(request == "POST /apis/batch/v1/namespaces/mobileclip2/jobs" for request in cluster.requests) > 1
    assert len(cluster.everything) == 4, "every chunk had one pod, so there was one Job"


def test_an_unreachable_server_is_reported(cluster, pipeline):
    cluster.faults.answer = lambda method, path: 503
    pipeline.compute.cluster.pause, pipeline.compute.cluster.patience = 0.02, 0.5
    with pytest.raises(ComputeError, match=r"was unreachable for 0 s: it answered 503: .*a fault of the test"):
        Running(pipeline).end()


def test_a_rejected_request_is_not_retried(cluster, pipeline):
    cluster.faults.answer = lambda method, path: 403 if method == "POST" else None
    with pytest.raises(ComputeError, match=r"refused a request in namespace 'mobileclip2': it answered 403"):
        Running(pipeline).end()
    assert sum(request.startswith("POST") for request in cluster.requests) == 1


def impatient(pipeline):
    settings = pipeline.compute.settings
    pipeline.compute.settings = settings.model_copy(update={"start_minutes": 0.05})


def test_pods_that_are_never_scheduled_fail_the_run(cluster, pipeline, expected):
    impatient(pipeline)
    cluster.nodes, nodes = {"one": 0}, cluster.nodes
    try:
        with pytest.raises(
            ComputeError, match=r"no pod could start in 0\.05 minutes: 0/1 nodes .* Insufficient nvidia"
        ):
            Running(pipeline).end()
    finally:
        cluster.nodes = nodes
    Running(on_cluster(Path(pipeline.profile.folder) / "tiny.yaml")).end()
    assert stored(pipeline) == expected


def test_fewer_gpus_than_requested_are_only_slower(cluster, pipeline, expected):
    cluster.nodes, nodes = {"one": 1}, cluster.nodes
    try:
        Running(pipeline).end()
    finally:
        cluster.nodes = nodes
    assert stored(pipeline) == expected


def test_parallelism_can_change_during_the_job(cluster, pipeline, expected, tmp_path):
    gate = Gate(cluster, tmp_path)
    run = Running(pipeline)
    gate.wait_for(4 * 3)
    (job,) = cluster.objects["jobs"].values()
    cluster.patch("jobs", job["metadata"]["name"], {"spec": {"parallelism": 1}})
    until(lambda: len(cluster.pods("Running")) == 1)
    gate.open()
    cluster.patch("jobs", job["metadata"]["name"], {"spec": {"parallelism": 3}})
    run.end()
    assert stored(pipeline) == expected


def test_a_restarted_run_adopts_its_job(cluster, pipeline, expected, tmp_path):
    """The first run cannot reach the cluster any more, not even to delete its Job."""
    gate = Gate(cluster, tmp_path)
    first = Running(pipeline)
    gate.wait_for(4 * 3)
    cluster.faults.answer = lambda method, path: 403
    with pytest.raises(ComputeError):
        first.end()
    cluster.faults.answer = Faults().answer
    assert len(cluster.objects["jobs"]) == 1
    second = Running(on_cluster(Path(pipeline.profile.folder) / "tiny.yaml"))
    until(lambda: second.steps)
    gate.open()
    second.end()
    assert stored(pipeline) == expected
    assert gate.repeated == 0 and len(cluster.everything) == 4


def test_a_finished_job_of_an_earlier_run_is_replaced(cluster, pipeline, expected, tmp_path):
    gate = Gate(cluster, tmp_path)
    run = Running(pipeline)
    gate.wait_for(4 * 3)
    (job,) = [dict(job) for job in cluster.objects["jobs"].values()]
    gate.open()
    run.end()
    for place in Path(pipeline.storage.url, ASSET).rglob("*.*"):
        place.unlink()
    finished = {"conditions": [{"type": "Complete", "status": "True"}]}
    cluster.objects["jobs"][job["metadata"]["name"]] = {**job, "status": finished}
    Running(on_cluster(Path(pipeline.profile.folder) / "tiny.yaml")).end()
    assert stored(pipeline) == expected


def test_a_deleted_job_fails_the_run(cluster, pipeline, tmp_path):
    gate = Gate(cluster, tmp_path)
    run = Running(pipeline)
    gate.wait_for(4 * 3)
    (name,) = cluster.objects["jobs"]
    cluster.delete("jobs", name)
    with pytest.raises(ComputeError, match="was deleted while it ran; run again"):
        run.end()


def test_the_run_waits_for_a_suspended_job(cluster, pipeline, expected, tmp_path):
    """Kueue suspends Jobs that it has not admitted."""
    impatient(pipeline)
    gate = Gate(cluster, tmp_path)
    run = Running(pipeline)
    gate.wait_for(1)
    (name,) = cluster.objects["jobs"]
    cluster.patch("jobs", name, {"spec": {"suspend": True}})
    until(lambda: not cluster.pods("Running"))
    gate.open()
    time.sleep(60 * pipeline.compute.settings.start_minutes + 0.5)
    assert run.thread.is_alive()
    cluster.patch("jobs", name, {"spec": {"suspend": False}})
    run.end()
    assert stored(pipeline) == expected


def test_a_group_is_materialized_through_dagster(cluster, pipeline, expected, tmp_path):
    """Materialize the Dagster asset."""
    home = tmp_path / "dagster"
    home.mkdir()
    with dg.DagsterInstance.local_temp(str(home)) as instance:
        repository = definitions_of(pipeline.profile).get_repository_def()
        materialize(pipeline.profile, repository, instance, Partition(AssetKey(ASSET), "g00"))
        event = instance.get_latest_materialization_event(dagster_key(pipeline.graph[ASSET].key))
    assert event.asset_materialization.metadata["reused"].value is False
    assert stored(pipeline) == expected
    assert cluster.everything


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """Return the environment of an S3 server and the URL of a store on it."""
    with FaultyS3() as s3:
        for name, value in {**s3.env, "TMPDIR": str(tmp_path), "MOBILECLIP2_CACHE": str(tmp_path / "cache")}.items():
            monkeypatch.setenv(name, value)
        s3.create_bucket("training")
        yield s3.env, "s3://training/store"


@pytest.mark.parametrize(
    ("lose", "place"), [(FakeCluster.evict, "disk"), (FakeCluster.kill, "disk"), (FakeCluster.kill, "bucket")]
)
def test_a_two_node_training_restarts_from_its_checkpoint(cluster, pipeline, tmp_path, lose, place, bucket):
    """One of two nodes dies. The whole Job is recreated, resumes the training, and has the losses of one process.

    The folders of the pods are deleted with the pods, so with a bucket only the store has the checkpoint.
    """
    profile = Path(pipeline.profile.folder) / "tiny.yaml"
    profile.write_text(
        profile.read_text()
        .replace("train: &train {steps: 4,", "train: &train {steps: 60,")
        .replace("checkpoint_every: 1}", "checkpoint_every: 1, log_every: 1}")
        .replace("raw_shards: {pods: 2}", "raw_shards: {pods: 2}, student: {pods: 2, gpus: 0}")
    )
    Pipeline(load(profile)).materialize("raw_shards", "g01")
    local = Path(shutil.copytree(profile.parent, tmp_path / "alone")) / "tiny.yaml"
    alone = Pipeline(load(local))
    alone.materialize("student/plain")
    if place == "bucket":
        env, store = bucket
        text = profile.read_text().replace("image: tests", f"image: tests\n    env: {json.dumps(env)}")
        profile.write_text(text.replace("store: store\n", f"store: {store}\n"))
        for group in ("g00", "g01"):
            Pipeline(load(profile)).materialize("raw_shards", group)

    # The run reads the progress from the logs of pods. Every third response with a log is cut.
    logs = Counter()
    cluster.faults.cut = lambda method, path: path.endswith("/log") and not logs.update([path]) and logs[path] % 3 == 0
    run = Running(on_cluster(profile), "student/plain", None)
    until(lambda: any(step.done >= 5 for step in run.steps))
    second = [pod for pod in cluster.pods("Running") if pod["metadata"]["name"].rsplit("-", 2)[1] == "1"]
    lose(cluster, second[0])
    reached = max(step.done for step in run.steps)
    assert reached < 60, "it was over before its node was lost"
    run.end()
    assert len(cluster.everything) == 4
    logs_of_second = [cluster.folder / f"{pod['metadata']['name']}.log" for pod in cluster.everything[2:]]
    messages = [each for log in logs_of_second for each in parse_output(log.read_text())[0]]
    # An evicted pod computes until its grace period ends. On a fast machine it may write the last checkpoint.
    went_on_at = next((message.step.done for message in messages if isinstance(message, StepReport)), 60)
    print(
        f"a node lost at step {reached} of 60 or a little later, went on at {went_on_at}; {logs.total()} looks at logs"
    )
    assert went_on_at >= reached
    curves = []
    for each in (alone, on_cluster(profile)):
        (read,) = each.read("student/plain")
        lines = read.fetch("metrics.jsonl").read_text().splitlines()
        curves.append([json.loads(line)["loss"] for line in lines])
    assert len(curves[0]) == 60 and curves[1] == pytest.approx(curves[0], abs=2e-3)


def test_a_student_without_training_uses_evaluation_pod_settings(cluster, pipeline):
    profile = Path(pipeline.profile.folder) / "tiny.yaml"
    given = "students:\n  - name: given\n    model: {config: *wide, weights: {path: weights/wide.safetensors}}\n"
    text = profile.read_text().replace(
        "      config:\n        embed_dim: 24", "      config: &wide\n        embed_dim: 24"
    )
    text = text.replace("students:\n", given)
    stages = "{teacher_embeddings: {pods: 4, gpus: 1}, student: {pods: 2, cpu: '64'}, evaluation: {cpu: '3', gpus: 0}}"
    profile.write_text(
        text.replace("stages: {teacher_embeddings: {pods: 4, gpus: 1}, raw_shards: {pods: 2}}", f"stages: {stages}")
    )
    on_cluster(profile).materialize("student/given")
    (pod,) = cluster.everything
    assert pod["spec"]["containers"][0]["resources"]["requests"]["cpu"] == "3"

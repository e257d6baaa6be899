"""Groups and trainings on a real Slurm: slurmctld and two slurmd of Debian's packages on this machine."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import InProcessExecutor, Pipeline, TaskBatch
from mobileclip2.engine.task import TaskSpec
from mobileclip2.errors import ComputeError, UserError
from mobileclip2.executors import executor_of
from mobileclip2.executors.local import LocalExecutor
from mobileclip2.executors.slurm import SlurmExecutor
from mobileclip2.executors.slurm_client import JobTask, SlurmClient, _parse
from mobileclip2.progress import silent
from tests.processes import start_process
from tests.slurm import SlurmCluster, installed, slurm_cluster, wait_for
from tests.waiting import until

pytestmark = pytest.mark.slow

SMALL = {"cpus": 1, "memory": "500M", "gpus": 0, "tasks": 2}


@pytest.fixture(scope="module")
def cluster() -> Iterator[SlurmCluster]:
    if not installed():
        pytest.skip("needs Slurm, munge and root")
    with slurm_cluster() as started:
        yield started


@pytest.fixture
def profile(tiny: Path, cluster: SlurmCluster) -> Path:
    return with_slurm(tiny)


def with_slurm(path: Path, *, steps: int | None = None, **stages: dict[str, Any]) -> Path:
    values = yaml.safe_load(path.read_text())
    names = ("raw_shards", "augmentations", "student", "teacher_embeddings")
    values["compute"] = {"slurm": {"stages": {name: {**SMALL, **stages.get(name, {})} for name in names}}}
    if steps:
        for student in values["students"]:
            student["train"]["steps"] = steps
    path.write_text(yaml.safe_dump(values))
    return path


def opened(path: Path) -> Pipeline:
    pipeline = Pipeline(load(path))
    executor = executor_of(pipeline.profile)
    assert isinstance(executor, SlurmExecutor)
    executor.poll = 0.5
    pipeline.compute = executor
    return pipeline


def raw(path: Path) -> None:
    for group in load(path).group_names:
        Pipeline(load(path), InProcessExecutor()).materialize("raw_shards", group)


def manifests(path: Path) -> dict[str, bytes]:
    store = path.parent / "store"
    return {file.relative_to(store).as_posix(): file.read_bytes() for file in store.rglob("manifest.json")}


def name_of(pipeline: Pipeline, key: str, group: str | None = None) -> str:
    asset = pipeline.graph[key]
    tasks = [pipeline.task_for(asset, slice_, group) for slice_ in asset.slices_of(group).values()]
    return TaskSpec.of(TaskBatch(pipeline, asset, group, tasks, silent)).name


def materialize(path: Path, key: str, group: str | None) -> None:
    opened(path).materialize(key, group)


def test_a_group_has_the_manifests_of_one_process(profile: Path, tmp_path: Path) -> None:
    other = shutil.copytree(profile.parent, tmp_path / "other") / profile.name
    steps: list[Any] = []
    for path, pipeline in ((profile, opened(profile)), (other, Pipeline(load(other), InProcessExecutor()))):
        for key in ("raw_shards", "augmentations"):
            pipeline.materialize(key, "g00", steps.append)
        assert manifests(path)
    assert manifests(other) == manifests(profile)
    assert len(list((profile.parent / "store" / ".slurm").rglob("*.log"))) == 4
    assert not list((profile.parent / "store" / ".orders").glob("*"))


def test_a_training_on_two_nodes_equals_one_on_this_machine(profile: Path, tmp_path: Path) -> None:
    with_slurm(profile, student={"nodes": 2})
    raw(profile)
    other = shutil.copytree(profile.parent, tmp_path / "other") / profile.name
    steps: list[Any] = []
    opened(profile).materialize("student/plain", progress=steps.append)
    Pipeline(load(other), LocalExecutor(2)).materialize("student/plain")
    assert manifests(other) == manifests(profile)
    assert steps[-1].unit == "steps" and steps[-1].done == 4


def test_a_rejected_shard_gives_the_error_of_one_process(profile: Path) -> None:
    profile.write_text(profile.read_text().replace("max_bad_share: 0.3", "max_bad_share: 0.01"))
    with pytest.raises(UserError, match="more than the accepted"):
        opened(profile).materialize("raw_shards", "g00")


def test_a_preempted_training_continues_from_its_checkpoint(profile: Path, cluster: SlurmCluster) -> None:
    with_slurm(profile, steps=400)
    raw(profile)
    pipeline = opened(profile)
    name = name_of(pipeline, "student/plain")
    process = start_process(materialize, profile, "student/plain", None)
    log = profile.parent / "store" / ".slurm" / name / "0.log"
    until(lambda: log.exists() and '"done":20' in log.read_text().replace(" ", ""), 120)
    urgent = cluster.command(
        "sbatch", "--parsable", "-p", "high", "-N2", "-n2", "-c2", "--mem=3900M", "--output=/dev/null", "--wrap=sleep 5"
    )
    assert urgent
    process.join(240)
    assert process.exitcode == 0
    (stored,) = Pipeline(load(profile)).read("student/plain")
    steps = [line for line in stored.fetch("metrics.jsonl").read_text().splitlines() if '"loss"' in line]
    assert len(steps) == 400
    assert log.read_text().count('"done":20,') + log.read_text().count('"done": 20,') == 1  # not from the start


def test_a_training_saves_a_checkpoint_before_its_time_limit(profile: Path, cluster: SlurmCluster) -> None:
    """Slurm counts limits in minutes, and sends the signal up to a minute early."""
    with_slurm(profile, steps=100_000, student={"minutes": 1})
    values = yaml.safe_load(profile.read_text())
    values["compute"]["slurm"]["grace_seconds"] = 15
    profile.write_text(yaml.safe_dump(values))
    raw(profile)
    name = name_of(opened(profile), "student/plain")
    process = start_process(materialize, profile, "student/plain", None)
    log = profile.parent / "store" / ".slurm" / name / "0.log"
    stopped = re.compile(r"stopped by SIGTERM after step (\d+) of(.*)", re.S)
    done = re.compile(r'"done": ?(\d+)')
    try:
        until(lambda: log.exists() and stopped.search(log.read_text()), 150)
        until(lambda: done.search(stopped.findall(log.read_text())[0][1]), 60)
    finally:
        os.kill(process.pid or 0, signal.SIGINT)
        process.join(60)
    ((step, rest),) = stopped.findall(log.read_text())[:1]
    assert int(done.findall(rest)[0]) > int(step) > 0, "the next job continues"
    until(lambda: not SlurmClient().active(name), 60)


def test_an_interrupted_run_cancels_its_job(profile: Path, cluster: SlurmCluster) -> None:
    with_slurm(profile, steps=100_000)
    raw(profile)
    name = name_of(opened(profile), "student/plain")
    process = start_process(materialize, profile, "student/plain", None)
    wait_for(cluster, name, "RUNNING")
    os.kill(process.pid or 0, signal.SIGINT)
    process.join(60)
    assert process.exitcode
    until(lambda: not SlurmClient().active(name), 60)


def test_a_new_run_adopts_the_job_of_a_killed_one(profile: Path, cluster: SlurmCluster) -> None:
    with_slurm(profile, steps=60)
    raw(profile)
    pipeline = opened(profile)
    name = name_of(pipeline, "student/plain")
    process = start_process(materialize, profile, "student/plain", None)
    wait_for(cluster, name, "RUNNING")
    process.kill()
    process.join()
    jobs = SlurmClient().active(name)
    pipeline.materialize("student/plain")
    assert (
        len(jobs) == 1 and len(cluster.command("squeue", "-h", "-t", "all", f"--name={name}", "-o", "%A").split()) == 1
    )


def test_a_training_restarts_after_losing_a_node(profile: Path, cluster: SlurmCluster) -> None:
    with_slurm(profile, steps=200)
    raw(profile)
    name = name_of(opened(profile), "student/plain")
    process = start_process(materialize, profile, "student/plain", None)
    wait_for(cluster, name, "RUNNING")
    node = cluster.command("squeue", "-h", f"--name={name}", "-o", "%N").strip()
    cluster.kill(node)
    try:
        process.join(240)
        assert process.exitcode == 0
    finally:
        cluster.start_node(node)
        until(lambda: cluster.command("sinfo", "-h", "-p", "low", "-o", "%T %D").split() == ["idle", "2"], 60)


def test_a_run_survives_a_restart_of_the_controller(profile: Path, cluster: SlurmCluster) -> None:
    with_slurm(profile, steps=60)
    raw(profile)
    pipeline = opened(profile)
    name = name_of(pipeline, "student/plain")
    process = start_process(materialize, profile, "student/plain", None)
    wait_for(cluster, name, "RUNNING")
    # a controller that has not saved the job yet would restart it, and drain the node that still runs it
    since = time.time()
    until(lambda: (cluster.folder / "state" / "job_state").stat().st_mtime > since, 30)
    cluster.kill("slurmctld")
    cluster.start_controller()
    process.join(240)
    assert process.exitcode == 0


def test_resources_that_no_node_has_are_refused_at_once(profile: Path) -> None:
    with_slurm(profile, raw_shards={"memory": "900G"})
    with pytest.raises(ComputeError, match=r"sbatch: .*Requested node configuration is not available"):
        opened(profile).materialize("raw_shards", "g00")


class Scripted(SlurmClient):
    """A client whose jobs end in the given states."""

    def __init__(self, *states: str, write: Any = None) -> None:
        super().__init__()
        self.states = list(states)
        self.submitted = 0
        self.write = write

    def active(self, name: str) -> list[int]:
        return []

    def submit(self, script: str, name: str) -> int:
        self.submitted += 1
        return self.submitted

    def tasks(self, job: int) -> list[JobTask]:
        return [JobTask(0, self.states[job - 1], "")]

    def cancel(self, job: int) -> None:
        pass


@pytest.mark.parametrize("lost", ["NODE_FAIL", "PREEMPTED", "BOOT_FAIL"])
def test_jobs_lost_by_slurm_do_not_count_as_failures(tiny: Path, lost: str) -> None:
    with_slurm(tiny)
    raw(tiny)
    pipeline = opened(tiny)
    client = Scripted(*[lost] * 9, *["FAILED"] * 9)
    pipeline.compute.client = client  # type: ignore[attr-defined]
    pipeline.compute.poll = 0.01  # type: ignore[attr-defined]
    with pytest.raises(ComputeError, match=r"failed: FAILED .*\n.*its log is empty\n.*The log is .*0\.log\. Finished"):
        pipeline.materialize("student/plain")
    assert client.submitted == 9 + 4


class Held(Scripted):
    """A client whose job fails to launch ``times`` times and is then cancelled."""

    def __init__(self, times: int) -> None:
        super().__init__("CANCELLED")
        self.times, self.released = times, 0

    def tasks(self, job: int) -> list[JobTask]:
        if self.released == self.times:
            return super().tasks(job)
        return [_parse("N/A|PENDING|launch failed requeued held")]

    def release(self, job: int) -> None:
        self.released += 1


@pytest.mark.parametrize(
    ("times", "message"), [(3, "the job 1 was cancelled"), (9, "the launch of the job 1 failed 4 times")]
)
def test_a_job_that_fails_to_launch_is_released_three_times(tiny: Path, times: int, message: str) -> None:
    with_slurm(tiny)
    raw(tiny)
    pipeline = opened(tiny)
    client = Held(times)
    pipeline.compute.client = client  # type: ignore[attr-defined]
    pipeline.compute.poll = 0.01  # type: ignore[attr-defined]
    with pytest.raises(ComputeError, match=message):
        pipeline.materialize("student/plain")
    assert client.released == 3


def test_a_cancelled_job_ends_the_run(tiny: Path) -> None:
    with_slurm(tiny)
    raw(tiny)
    pipeline = opened(tiny)
    pipeline.compute.client = Scripted("CANCELLED")  # type: ignore[attr-defined]
    with pytest.raises(ComputeError, match="the job 1 was cancelled; run again, finished shards are kept"):
        pipeline.materialize("student/plain")

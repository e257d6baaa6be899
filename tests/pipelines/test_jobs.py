"""Compute several assets and groups at once, in real processes that receive real signals."""

from __future__ import annotations

import os
import signal
from multiprocessing import Pipe
from pathlib import Path
from threading import Timer
from unittest.mock import Mock

import dagster as dg
import pytest

from mobileclip2.asset_key import AssetKey, Partition
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from pipelines.jobs import Job, Jobs
from tests.pipelines.test_supervise import PROLOGUE, Command, is_alive, statuses

pytestmark = pytest.mark.slow

STAGE = f"""
{PROLOGUE}
import mobileclip2.engine.pipeline
mobileclip2.engine.pipeline.InProcessExecutor.run = meet
"""


def in_jobs(folder: Path) -> str:
    """Return a path for PYTHONPATH: stages wait in processes of the fork server, and only there."""
    path = folder / "site"
    path.mkdir()
    body = "\n".join(f"    {line}" for line in STAGE.splitlines())
    (path / "sitecustomize.py").write_text(
        f"from pathlib import Path\nif 'forkserver' in Path('/proc/self/cmdline').read_text():\n{body}\n"
    )
    return str(path)


def test_jobs_compute_the_plan_in_separate_processes(smallest: Path, tmp_path: Path) -> None:
    status, errors = Command(tmp_path, smallest, "", "run", "--jobs", "3").end()
    assert status == 0, errors
    assert "computed 5 asset-group pairs" in errors.splitlines()
    assert plan(Pipeline(load(smallest))).items == ()
    with dg.DagsterInstance.from_config(str(tmp_path / "dagster")) as instance:
        runs = instance.get_runs()
    assert {run.status for run in runs} == {dg.DagsterRunStatus.SUCCESS} and len(runs) == 5
    assert len({run.tags["mobileclip2/process"] for run in runs}) == 5
    assert len({run.tags["mobileclip2/command"] for run in runs}) == 1


def test_pairs_that_do_not_depend_on_a_failure_are_computed(smallest: Path, tmp_path: Path) -> None:
    shard = smallest.parent / "shards" / "00001.tar"
    shard.write_bytes(shard.read_bytes()[:1000])
    status, errors = Command(tmp_path, smallest, "", "run", "--jobs", "2").end()
    first, last = errors.splitlines()[-2:]
    assert status == 1 and first.startswith("mobileclip2: raw_shards [g01]: ") and "Traceback" not in errors
    assert last.startswith("1 asset-group pairs failed; 1 depend on them and were not computed")
    assert plan(Pipeline(load(smallest))).pairs == [("raw_shards", "g01"), ("augmentations", "g01")]


def test_a_failure_is_kept_while_another_job_ends(smallest: Path, instance: dg.DagsterInstance) -> None:
    jobs = Jobs(Pipeline(load(smallest)), instance, Mock(), 2)
    senders = []
    for slot, group in enumerate(("g00", "g01")):
        receiver, sender = Pipe(duplex=False)
        jobs._jobs[receiver] = Job(Partition(AssetKey("raw_shards"), group), slot, Mock(exitcode=0), None)
        senders.append(sender)
    senders[1].send_bytes(b'["failed", "the shard is cut off"]')
    Timer(0.2, senders[0].close).start()  # The delay makes the message arrive first.
    partition, failure = jobs.wait()
    assert (partition.group, failure) == ("g00", None)
    senders[1].close()
    partition, failure = jobs.wait()
    assert (partition.group, str(failure)) == ("g01", "the shard is cut off")


def test_stopping_the_command_ends_all_jobs(smallest: Path, tmp_path: Path) -> None:
    command = Command(tmp_path, smallest, "", "run", "--jobs", "3", PYTHONPATH=in_jobs(tmp_path))
    jobs = command.meet(3)
    command.process.send_signal(signal.SIGINT)
    status, errors = command.end()
    lines = [line for line in errors.splitlines() if not line.startswith("[")]
    assert status == 130 and len(lines) == 1, errors
    assert "in raw_shards [g00], raw_shards [g01], caption_corpus/clean; finished shards" in errors
    assert not [job for job in jobs if is_alive(job)]
    assert statuses(tmp_path) == [dg.DagsterRunStatus.CANCELED] * 3


def test_no_job_outlives_a_killed_command(smallest: Path, tmp_path: Path) -> None:
    command = Command(tmp_path, smallest, "", "run", "--jobs", "2", PYTHONPATH=in_jobs(tmp_path))
    jobs = command.meet(2)
    (child,) = map(int, Path(f"/proc/{command.process.pid}/task/{command.process.pid}/children").read_text().split())
    os.kill(child, signal.SIGKILL)
    status, errors = command.end()
    assert status == 128 + signal.SIGKILL and "ended by SIGKILL" in errors
    assert not [job for job in jobs if is_alive(job)]
    assert statuses(tmp_path) == [dg.DagsterRunStatus.FAILURE] * 2


def test_a_job_that_crashes_is_reported_and_the_others_continue(smallest: Path, tmp_path: Path) -> None:
    site = in_jobs(tmp_path)
    environment = {"PYTHONPATH": site, "KILL_MYSELF": str(int(signal.SIGSEGV))}
    status, errors = Command(tmp_path, smallest, "", "run", "--jobs", "2", **environment).end()
    assert status == 1, errors
    for label in ("raw_shards [g00]", "raw_shards [g01]", "caption_corpus/clean"):
        assert f"{label}: ended by SIGSEGV: it crashed in native code" in errors, errors
    assert ", in meet)" in errors, "the line of Python that was running"
    assert statuses(tmp_path) == [dg.DagsterRunStatus.FAILURE] * 3

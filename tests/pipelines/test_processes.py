import os
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest

from mobileclip2.errors import UserError
from pipelines.graphql import Server
from pipelines.processes import PROCESS_TAG, end_dead_runs
from pipelines.remote import EVALUATE, evaluate_remotely
from tests.pipelines.server import FAST_DAEMON, Dagster

ROOT = Path(__file__).parents[2]


@pytest.fixture
def on_disk(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def started(instance, **tags):
    run = dg.DagsterRun(job_name="refresh", status=dg.DagsterRunStatus.STARTED, tags=tags)
    return instance.add_run(run).run_id


def test_only_runs_of_dead_processes_are_ended(on_disk, tmp_path):
    run_id = started(on_disk)
    others = [started(on_disk), started(on_disk, **{PROCESS_TAG: "elsewhere/1/1"})]
    code = """
import sys, time, dagster as dg
from pipelines.processes import mark
with dg.DagsterInstance.local_temp(sys.argv[1]) as instance:
    mark(instance, sys.argv[2])
    time.sleep(600)
"""
    process = subprocess.Popen([sys.executable, "-c", code, tmp_path, run_id], cwd=ROOT)
    try:
        until = time.monotonic() + 300
        while PROCESS_TAG not in on_disk.get_run_by_id(run_id).tags:
            assert process.poll() is None and time.monotonic() < until
            time.sleep(0.1)
        end_dead_runs(on_disk)
        assert on_disk.get_run_by_id(run_id).status == dg.DagsterRunStatus.STARTED
        os.kill(process.pid, signal.SIGKILL)
        # The killed process is still a zombie, because its parent has not waited for it. A zombie counts as dead.
        while on_disk.get_run_by_id(run_id).status == dg.DagsterRunStatus.STARTED:
            assert time.monotonic() < until
            end_dead_runs(on_disk)
    finally:
        process.kill()
        process.wait()
    assert on_disk.get_run_by_id(run_id).status == dg.DagsterRunStatus.FAILURE
    assert {on_disk.get_run_by_id(other).status for other in others} == {dg.DagsterRunStatus.STARTED}


CRASH = """
import os, signal
from mobileclip2.executors import local

def crash(self, batch):
    os.kill(os.getpid(), signal.SIGSEGV)

local.LocalExecutor.run = crash  # before it imports a stage, and with it torch
"""


@pytest.mark.slow
def test_a_crash_of_a_launched_run_is_shown_on_its_page(finished, tmp_path, monkeypatch):
    """Only one pair of ``pupil`` is missing, so that the backfill has one run and its retries."""
    shutil.rmtree(finished.parent / "store" / "evaluation")
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(CRASH)
    monkeypatch.setenv("PYTHONPATH", str(site))
    home = tmp_path / "home"
    home.mkdir()
    with ExitStack() as stack:
        server = Server(Dagster(finished, home, stack, daemon=FAST_DAEMON).with_daemon().url)
        with pytest.raises(UserError):
            evaluate_remotely(server, "pupil", None, None, 5.0, None)
        with dg.DagsterInstance.from_config(str(home)) as instance:
            until = time.monotonic() + 300

            def told(run):
                messages = [entry.message for entry in instance.all_logs(run.run_id)]
                return any("SIGSEGV: it crashed in native code" in message for message in messages)

            def ended(run):
                return run.status == dg.DagsterRunStatus.FAILURE and told(run)

            def crashed():
                """Return the runs of the backfill and their retries."""
                return [run for run in instance.get_runs() if run.job_name != EVALUATE]

            while not all(map(ended, crashed())):
                assert time.monotonic() < until, [(run.status, run.tags) for run in crashed()]
                time.sleep(0.5)
            assert crashed()

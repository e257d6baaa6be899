import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import dagster as dg
import pytest

from pipelines.processes import PROCESS_TAG, end_dead_runs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def on_disk(tmp_path):
    with dg.DagsterInstance.local_temp(str(tmp_path)) as instance:
        yield instance


def started(instance, **tags):
    run = dg.DagsterRun(job_name="refresh", status=dg.DagsterRunStatus.STARTED, tags=tags)
    return instance.add_run(run).run_id


def test_a_run_whose_process_was_killed_is_ended_and_others_are_not(on_disk, tmp_path):
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
        # not waited for yet: a process that nobody has asked about is dead too
        while on_disk.get_run_by_id(run_id).status == dg.DagsterRunStatus.STARTED:
            assert time.monotonic() < until
            end_dead_runs(on_disk)
    finally:
        process.kill()
        process.wait()
    assert on_disk.get_run_by_id(run_id).status == dg.DagsterRunStatus.FAILURE
    assert {on_disk.get_run_by_id(other).status for other in others} == {dg.DagsterRunStatus.STARTED}

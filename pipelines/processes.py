"""Which process works on a run, and the end of runs whose process is gone.

A killed process cannot say that its run has failed. Dagster notices that of processes that it started, while it runs itself; of
others, or after the machine went down, such a run counts as going on for ever: nothing behind it in the queue starts.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import dagster as dg

PROCESS_TAG = "mobileclip2/process"


def mark(dagster: dg.DagsterInstance, run_id: str) -> None:
    """Note that this process works on a run. A run has one process: stages use all cores by themselves."""
    dagster.add_run_tags(run_id, {PROCESS_TAG: f"{socket.gethostname()}/{os.getpid()}/{_began(os.getpid())}"})


def end_dead_runs(dagster: dg.DagsterInstance) -> None:
    """Record the failure of runs whose process on this machine is gone. Other machines are not checked."""
    statuses = [dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]
    for record in dagster.get_run_records(dg.RunsFilter(statuses=statuses)):
        host, _, process = record.dagster_run.tags.get(PROCESS_TAG, "").partition("/")
        number, _, began = process.partition("/")
        if host == socket.gethostname() and _began(int(number)) != began:
            dagster.report_run_failed(record.dagster_run, f"Its process {number} was killed. Finished shards are kept.")


def _began(process: int) -> str | None:
    """When a living process began, in clock ticks: tells it from a later one that was given the same number."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" else fields[18]

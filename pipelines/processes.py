"""Which process works on a run, and how runs end whose process was killed by a signal.

A killed process cannot say that its run has failed. Dagster notices the death of processes that it started, while it runs itself,
and names no stage and no remedy. Of other processes, or after a reboot, it counts such a run as started for ever.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import socket
from collections.abc import Iterator
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING

from mobileclip2.executors.signals import death
from mobileclip2.store.stat_cache import cache_folder

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = "mobileclip2/process"

LOST = "it was killed, or the machine went down; finished shards are kept; run again"

_FAULTS = {
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Floating-point exception": signal.SIGFPE,
    "Bus error": signal.SIGBUS,
    "Illegal instruction": signal.SIGILL,
}
"""what faulthandler calls them"""


def process_id(number: int) -> str | None:
    """Identify a process of any machine: host, number and start; None if it is gone. A zombie is still there."""
    began = _began(number, zombies=True)
    return f"{socket.gethostname()}/{number}/{began}" if began else None


def mark(dagster: dg.DagsterInstance, run_id: str) -> None:
    """Note that this process works on a run, and have it write where it was if native code crashes."""
    dagster.add_run_tags(run_id, {PROCESS_TAG: this_process()})
    _write_crashes()


def this_process() -> str:
    """Identify this process among those of all machines."""
    process = process_id(os.getpid())
    assert process
    return process


_writes_crashes: int | None = None
"""the process that has opened its file; a fork has not"""


def _write_crashes() -> None:
    global _writes_crashes
    if _writes_crashes == os.getpid():
        return
    _writes_crashes = os.getpid()
    path = _crash_file(this_process())
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except OSError:  # no place for it: the crash is reported without the line of Python
        return
    faulthandler.enable(file, all_threads=False)
    # not atexit: the processes of Dagster's launcher skip that
    Finalize(None, _clean_up, (file, path), exitpriority=0)


def _clean_up(file: object, path: Path) -> None:
    faulthandler.disable()
    path.unlink(missing_ok=True)


def _crash_file(process: str) -> Path:
    return cache_folder() / "crashes" / process.replace("/", "_")


def last_words(process: str, number: int | None = None) -> str | None:
    """Say how a process died and the last line of Python that it was at, and forget it.

    Args:
        number: the signal, if known. Without it the signal is taken from what the process left behind.

    Returns:
        None if it ended by itself, or has been reported before.
    """
    path = _crash_file(process)
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return death(number) if number else None
    path.unlink(missing_ok=True)
    fault = next((found for name, found in _FAULTS.items() if f"Fatal Python error: {name}" in text), signal.SIGKILL)
    frame = re.search(r'File "(.+)", line (\d+) in (.+)', text)
    place = f" (at {frame[1]}:{frame[2]}, in {frame[3]})" if frame else ""
    return f"{death(number or fault)}{place}"


def end_dead_runs(dagster: dg.DagsterInstance) -> None:
    """Record the failure of runs whose process on this machine is gone, and how it died.

    Of other machines nothing is known.
    """
    import dagster as dg

    words = dict(_dead())
    for record in dagster.get_run_records(dg.RunsFilter(statuses=_unfinished())):
        run, process = record.dagster_run, record.dagster_run.tags.get(PROCESS_TAG, "")
        if _is_gone(process):
            dagster.report_run_failed(run, _message(process, words.get(process, LOST)))
    for process, how in words.items():
        # Dagster itself has ended these, and has said neither what it means nor what to try
        for run in dagster.get_runs(dg.RunsFilter(tags={PROCESS_TAG: process}, statuses=[dg.DagsterRunStatus.FAILURE])):
            if not _is_told(dagster, run):
                dagster.report_engine_event(_message(process, how), run)


def end_runs_of(dagster: dg.DagsterInstance, process: str, message: str, *, canceled: bool) -> None:
    """Record how the runs of a process ended that is gone."""
    import dagster as dg

    for record in dagster.get_run_records(dg.RunsFilter(tags={PROCESS_TAG: process}, statuses=_unfinished())):
        if canceled:
            dagster.report_run_canceled(record.dagster_run, message)
        else:
            dagster.report_run_failed(record.dagster_run, message)


def _unfinished() -> list[dg.DagsterRunStatus]:
    """States of a run that a process may work on; a queued run has none yet."""
    import dagster as dg

    return [getattr(dg.DagsterRunStatus, name) for name in ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")]


def _message(process: str, how: str) -> str:
    return f"Its process {process.split('/')[1]} is gone: {how}"


def _is_told(dagster: dg.DagsterInstance, run: dg.DagsterRun) -> bool:
    return any(entry.message.startswith("Its process ") for entry in dagster.all_logs(run.run_id))


def _dead() -> Iterator[tuple[str, str]]:
    """(process, how it died) of those on this machine that have left a file."""
    for path in (cache_folder() / "crashes").glob("*"):
        process = "/".join(path.name.rsplit("_", 2))
        if _is_gone(process) and (words := last_words(process)):
            yield process, words


def _is_gone(process: str) -> bool:
    host, _, rest = process.partition("/")
    number, _, began = rest.partition("/")
    return host == socket.gethostname() and _began(int(number)) != began


def _began(process: int, *, zombies: bool = False) -> str | None:
    """When a living process began, in clock ticks: tells it from a later one that was given the same number."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" and not zombies else fields[18]

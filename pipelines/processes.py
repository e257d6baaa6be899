"""Report the failure of runs whose process was killed.

A killed process cannot report that its run failed. Dagster notices this only for processes that it started, and only while it
runs itself; its message names neither the cause nor a remedy. All other such runs would stay in the state *started*.
"""

from __future__ import annotations

import faulthandler
import os
import re
import signal
import socket
from collections.abc import Iterator
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING

from mobileclip2.errors import StoreError
from mobileclip2.signals import death
from mobileclip2.store.user_cache import cache_folder

if TYPE_CHECKING:
    import dagster as dg

PROCESS_TAG = "mobileclip2/process"
"""tag of a run: the process that executes it"""
COMMAND_TAG = "mobileclip2/command"
"""tag of a run of the command line: the process of the command, which may execute the run in another process"""

LOST = "it was killed, or the machine went down; finished shards are kept; run again"

_FAULTS = {
    "Segmentation fault": signal.SIGSEGV,
    "Aborted": signal.SIGABRT,
    "Floating-point exception": signal.SIGFPE,
    "Bus error": signal.SIGBUS,
    "Illegal instruction": signal.SIGILL,
}
"""signal for each of faulthandler's messages"""


def process_id(number: int) -> str | None:
    """Return a process's id ``host/pid/start``, unique over machines. None if the process is gone, which a zombie is not."""
    start = _start_ticks(number, zombies=True)
    return f"{socket.gethostname()}/{number}/{start}" if start else None


def mark(dagster: dg.DagsterInstance, run_id: str) -> None:
    """Tag a run with this process, and write the Python traceback to a file if native code crashes."""
    process = this_process()
    dagster.add_run_tags(run_id, {PROCESS_TAG: process})
    _write_crashes(process)


@cache  # a fork has another id, and opens its own file
def _write_crashes(process: str) -> None:
    try:
        path = _crash_file(process)
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("w")
    except (OSError, StoreError):  # without the file, the crash is reported without the Python line
        return
    faulthandler.enable(file, all_threads=False)
    # processes of Dagster's launcher skip atexit handlers
    Finalize(None, _clean_up, (file, path), exitpriority=0)


def this_process() -> str:
    """Return the id of this process."""
    process = process_id(os.getpid())
    assert process
    return process


def _clean_up(file: object, path: Path) -> None:
    faulthandler.disable()
    path.unlink(missing_ok=True)


def _crash_file(process: str) -> Path:
    return cache_folder() / "crashes" / process.replace("/", "_")


def crash_report(process: str, number: int | None = None) -> str | None:
    """Return how a process died and its last Python line, and delete its crash file.

    Args:
        number: The signal. By default it is read from the crash file.

    Returns:
        None if the process ended normally, or was reported before.
    """
    try:
        path = _crash_file(process)
        text = path.read_text(errors="replace")
    except (OSError, StoreError):
        return death(number) if number else None
    path.unlink(missing_ok=True)
    fault = next(
        (signal_ for name, signal_ in _FAULTS.items() if f"Fatal Python error: {name}" in text), signal.SIGKILL
    )
    frame = re.search(r'File "(.+)", line (\d+) in (.+)', text)
    location = f" (at {frame[1]}:{frame[2]}, in {frame[3]})" if frame else ""
    return f"{death(number or fault)}{location}"


def end_dead_runs(dagster: dg.DagsterInstance) -> None:
    """Report the failure of unfinished runs whose process on this machine is gone, and how it died."""
    import dagster as dg

    causes = dict(_dead_processes())
    for record in dagster.get_run_records(dg.RunsFilter(statuses=_unfinished())):
        run, process = record.dagster_run, record.dagster_run.tags.get(PROCESS_TAG, "")
        if _is_gone(process):
            dagster.report_run_failed(run, _message(process, causes.get(process, LOST)))
    for process, cause in causes.items():
        # Dagster ended these runs itself, and its message has neither a cause nor a remedy
        for run in dagster.get_runs(dg.RunsFilter(tags={PROCESS_TAG: process}, statuses=[dg.DagsterRunStatus.FAILURE])):
            if not any(entry.message.startswith("Its process ") for entry in dagster.all_logs(run.run_id)):
                dagster.report_engine_event(_message(process, cause), run)


def end_runs_of(dagster: dg.DagsterInstance, process: str, message: str, *, canceled: bool) -> None:
    """Report the runs of an ended process, and of the command that it was, as failed or canceled."""
    import dagster as dg

    end = dagster.report_run_canceled if canceled else dagster.report_run_failed
    for tag in (PROCESS_TAG, COMMAND_TAG):
        for record in dagster.get_run_records(dg.RunsFilter(tags={tag: process}, statuses=_unfinished())):
            end(record.dagster_run, message)


def _unfinished() -> list[dg.DagsterRunStatus]:
    """Return the states of a run that can have a process. A queued run has no process yet."""
    import dagster as dg

    return [getattr(dg.DagsterRunStatus, name) for name in ("NOT_STARTED", "STARTING", "STARTED", "CANCELING")]


def _message(process: str, cause: str) -> str:
    return f"Its process {process.split('/')[1]} is gone: {cause}"


def _dead_processes() -> Iterator[tuple[str, str]]:
    """Yield (process, cause of death) for the processes of this machine that left a crash file."""
    try:
        paths = list((cache_folder() / "crashes").glob("*"))
    except StoreError:  # then no process has left a file
        return
    for path in paths:
        process = "/".join(path.name.rsplit("_", 2))
        if _is_gone(process) and (cause := crash_report(process)):
            yield process, cause


def _is_gone(process: str) -> bool:
    host, _, rest = process.partition("/")
    number, _, start = rest.partition("/")
    return host == socket.gethostname() and _start_ticks(int(number)) != start


def _start_ticks(process: int, *, zombies: bool = False) -> str | None:
    """Return the start of a living process in clock ticks, which distinguishes it from a later process with the same pid."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state == "Z" and not zombies else fields[18]

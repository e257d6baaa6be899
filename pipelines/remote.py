"""``mobileclip2 run --dagster`` and ``evaluate --dagster``: launch a job on a Dagster server and wait for it.

The server plans with its own profile and store, and submits what is missing as one asset backfill. The gate is that of the
server's profile. The caller needs no store and no torch.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobileclip2.errors import RemoteError, UserError
from mobileclip2.names import listed
from pipelines.backfill import AWAY_SECONDS, POLL_SECONDS, wait_for_backfill
from pipelines.graphql import LAST_SECONDS, REQUEST_SECONDS, Away, Server, clean, first_line, log

EVALUATE, REFRESH = "evaluate", "refresh"
"""names of the jobs"""
EVALUATE_OP, REFRESH_OP = "evaluate_student", "submit_plan"
FAILED_ENTRY, TABLE_ENTRY, BACKFILL_ENTRY = "gate fails", "comparison", "backfill id"
"""labels of the ops' output metadata"""

DAEMON_SECONDS = 120.0
"""age of the last heartbeat at which the daemon counts as dead; it sends one every 30 s"""

LONGEST_FAILURE = 2000
"""in characters; the run's page has the complete message"""

PASSED, GATE_FAILED = 0, 3
"""exit statuses of the gate; 1 is a user error, 2 a usage error"""
FINISHED = {"SUCCESS", "FAILURE", "CANCELED"}

LOCATIONS = """
query Locations {
  workspaceOrError {
    __typename
    ... on Workspace {
      locationEntries {
        name
        locationOrLoadError {
          __typename
          ... on RepositoryLocation { repositories { name jobs { name } } }
          ... on PythonError { message }
        }
      }
    }
    ... on PythonError { message }
  }
}
"""

LAUNCH = """
mutation Launch($parameters: ExecutionParams!) {
  launchRun(executionParams: $parameters) {
    __typename
    ... on LaunchRunSuccess { run { runId } }
    ... on RunConfigValidationInvalid { errors { message } }
    ... on Error { message }
  }
}
"""

POLL = """
query Poll($run: ID!, $after: String) {
  runOrError(runId: $run) { __typename ... on Run { status } ... on Error { message } }
  logsForRun(runId: $run, afterCursor: $after) {
    __typename
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on MessageEvent { message level }
        ... on ExecutionStepFailureEvent { error { message } failureMetadata { description } }
        ... on RunFailureEvent { error { message } }
        ... on ExecutionStepOutputEvent {
          metadataEntries {
            label
            ... on BoolMetadataEntry { boolValue }
            ... on MarkdownMetadataEntry { mdStr }
            ... on TextMetadataEntry { text }
          }
        }
      }
    }
    ... on Error { message }
  }
}
"""

DAEMON = "query Daemon { instance { daemonHealth { allDaemonStatuses { daemonType required lastHeartbeatTime } } } }"

STOP = "mutation Stop($run: String!) { terminateRun(runId: $run) { __typename } }"


@dataclass(frozen=True)
class RemoteJob:
    """A job on the server."""

    name: str
    location: str
    repository: str


@dataclass
class RunState:
    """State of a run, from all answers so far."""

    run: str
    status: str = ""
    cursor: str | None = None
    more: bool = False
    step: str = ""
    """its last log message"""
    failure: str = ""
    table: str | None = None
    gate_fails: bool | None = None
    backfill: str | None = None


def refresh_remotely(server: Server, assets: list[str], location: str | None, minutes: float) -> None:
    """Launch the job ``refresh``, and wait at most ``minutes`` for its backfill.

    Raises:
        RemoteError: Assets could not be computed. The message names them.
    """
    until = server.deadline = time.monotonic() + 60 * minutes
    job = find_job(server, REFRESH, location)
    state = run_job(server, job, {REFRESH_OP: {"config": {"assets": assets}}}, until)
    if state.backfill:
        wait_for_backfill(server, state.backfill, until)
    print("computed everything that was missing" if state.backfill else "nothing to compute")


def evaluate_remotely(
    server: Server, student: str, baseline: str | None, location: str | None, minutes: float, markdown: Path | None
) -> int:
    """Launch the job ``evaluate``, wait at most ``minutes``, print the table, and return the gate's exit status.

    If the evaluation is not computed yet, the job submits a backfill instead. It is launched again after the backfill.

    Raises:
        RemoteError: There is no verdict. The message says why and what happens to the run.
    """
    until = server.deadline = time.monotonic() + 60 * minutes
    job = find_job(server, EVALUATE, location)
    config = {"student": student.rpartition("/")[2]} | ({"baseline": baseline} if baseline else {})
    ops = {EVALUATE_OP: {"config": config}}
    state = run_job(server, job, ops, until)
    if state.backfill:
        wait_for_backfill(server, state.backfill, until)
        state = run_job(server, job, ops, until)
    page = server.run_page(state.run)
    if state.table is None or state.gate_fails is None:
        raise RemoteError(f"the run ended without a verdict; see {page} and deploy this version there")
    text = f"{state.table}\n[Run {state.run[:8]}]({page}) of the code location '{job.location}'.\n"
    print(text, end="")
    if markdown:
        try:
            markdown.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--markdown {markdown}: {error.strerror}; give another path") from None
    return GATE_FAILED if state.gate_fails else PASSED


def run_job(server: Server, job: RemoteJob, ops: dict[str, Any], until: float) -> RunState:
    """Launch a job, and wait until it has succeeded.

    Raises:
        RemoteError: The run failed, was canceled, or did not end in time.
    """
    run = launch(server, job, ops)
    log(f"launched in '{job.location}': {server.run_page(run)}")
    state = wait(server, run, until)
    if state.status != "SUCCESS":
        failed = f"failed: {state.failure or 'the server gives no reason'}"
        ended = "was canceled" if state.status == "CANCELED" else failed
        raise RemoteError(f"the run {ended}; see {server.run_page(run)}, fix the cause and call again")
    return state


def find_job(server: Server, name: str, location: str | None) -> RemoteJob:
    """Return the job of a name in the given code location, or in the only code location that has it.

    Raises:
        RemoteError: No code location has the job, several have it, or the location does not load.
    """
    workspace = server.take(server.ask(LOCATIONS), "workspaceOrError", dict)
    entries = server.take(workspace, "locationEntries", list)
    names = [clean(server.take(entry, "name", str)) for entry in entries]
    if location is not None and location not in names:
        known = listed(f"'{name}'" for name in names)
        raise RemoteError(
            f"{server.address} has no code location '{location}', it has {known}; deploy it or correct --location"
        )
    jobs, broken = [], []
    for located, entry in zip(names, entries, strict=True):
        loaded = entry.get("locationOrLoadError")
        if location not in {None, located}:
            continue
        if isinstance(loaded, dict) and loaded.get("__typename") == "RepositoryLocation":
            for repository in server.take(loaded, "repositories", list):
                names_of_jobs = [server.take(each, "name", str) for each in server.take(repository, "jobs", list)]
                if name in names_of_jobs:
                    jobs.append(RemoteJob(name, located, server.take(repository, "name", str)))
        else:
            broken.append(
                f"'{located}' ({first_line(loaded.get('message')) if isinstance(loaded, dict) else 'loading'})"
            )
    if broken and not jobs:
        raise RemoteError(f"{server.address}: code location does not load: {', '.join(broken)}; fix it and reload it")
    if not jobs:
        raise RemoteError(f"{server.address}: no code location has the job '{name}'; deploy this version there")
    if len(jobs) > 1:
        several = listed(f"'{job.location}'" for job in jobs)
        raise RemoteError(f"{server.address}: the job '{name}' is in {several}; choose one with --location")
    return jobs[0]


def launch(server: Server, job: RemoteJob, ops: dict[str, Any]) -> str:
    """Launch a run through the server's run coordinator, and return its id.

    Raises:
        RemoteError: The server refuses, or does not answer, so that it is not known whether a run was launched.
    """
    parameters = {
        "selector": {
            "repositoryLocationName": job.location,
            "repositoryName": job.repository,
            "jobName": job.name,
        },
        "runConfigData": {"ops": ops},
        # the caller gets the failure of this run, and would not wait for a retry
        "executionMetadata": {"tags": [{"key": "dagster/max_retries", "value": "0"}]},
    }
    try:
        result = server.take(server.ask(LAUNCH, parameters=parameters), "launchRun", dict)
    except Away as error:
        raise RemoteError(f"{error}. It may have launched the run: see {server.address}/runs") from None
    if result.get("__typename") == "LaunchRunSuccess":
        return server.take(server.take(result, "run", dict), "runId", str)
    errors = result.get("errors") or [result]
    messages = [first_line(error.get("message")) for error in errors if isinstance(error, dict)]
    raise RemoteError(f"{server.address}: the run was refused: {'; '.join(messages)}; deploy this version there")


def wait(server: Server, run: str, until: float) -> RunState:
    """Poll a run until it ends.

    Raises:
        RemoteError: The run did not end in time, the server is gone, or no daemon starts queued runs.
    """
    state, answered, daemon = RunState(run), time.monotonic(), Daemon()
    while True:
        left = until - time.monotonic()
        try:
            poll(server, run, state, min(REQUEST_SECONDS, max(1.0, left)))
            if state.status == "QUEUED":
                daemon.poll(server)
        except Away as error:
            if time.monotonic() >= min(until, answered + AWAY_SECONDS):
                raise RemoteError(
                    f"{error}. The run {run} may continue there: call again when the server is back"
                ) from None
        else:
            answered = time.monotonic()
            if state.more and left > -LAST_SECONDS:
                continue
            if state.status in FINISHED:
                return state
            if daemon.is_dead or left <= 0:
                raise _timed_out(server, run, state, daemon)
        time.sleep(min(POLL_SECONDS, max(0.0, until - time.monotonic())))


def poll(server: Server, run: str, state: RunState, seconds: float) -> None:
    """Update ``state`` with the run's status and its new events."""
    before = state.status
    answer = server.ask(POLL, seconds, run=run, after=state.cursor)
    polled = server.take(answer, "runOrError", dict)
    if polled.get("__typename") == "RunNotFoundError":
        raise RemoteError(f"{server.address}: the run {run} was deleted; call again")
    status = server.take(polled, "status", str)
    events = server.take(answer, "logsForRun", dict)
    # poll once more when the run has ended: its last events may be newer than this answer
    state.more = server.take(events, "hasMore", bool) or (status in FINISHED and before != status)
    state.status, state.cursor = status, server.take(events, "cursor", str)
    if status != before and status not in FINISHED:
        log(clean(status).lower().replace("_", " "))
    for event in server.take(events, "events", list):
        add_event(server, event, state)


def add_event(server: Server, event: dict[str, Any], state: RunState) -> None:
    """Update ``state`` with an event: a log message, a failure, the table or the verdict."""
    kind = server.take(event, "__typename", str)
    if kind == "LogMessageEvent":
        state.step = first_line(event.get("message"))
        log(state.step)
    elif kind == "ExecutionStepFailureEvent":
        message = (event.get("failureMetadata") or {}).get("description") or (event.get("error") or {}).get("message")
        state.failure = clean(str(message)).strip()[:LONGEST_FAILURE]
    elif kind == "RunFailureEvent" and not state.failure:
        state.failure = first_line((event.get("error") or {}).get("message") or event.get("message"))
    elif kind == "ExecutionStepOutputEvent":
        for entry in server.take(event, "metadataEntries", list):
            if entry.get("label") == FAILED_ENTRY:
                state.gate_fails = server.take(entry, "boolValue", bool)
            elif entry.get("label") == TABLE_ENTRY:
                state.table = clean(server.take(entry, "mdStr", str))
            elif entry.get("label") == BACKFILL_ENTRY:
                state.backfill = clean(server.take(entry, "text", str))


class Daemon:
    """Watches the heartbeat of the daemon that starts queued runs, with the clock of this machine."""

    def __init__(self) -> None:
        self._heartbeat: object = None
        self._since = time.monotonic()
        self.is_dead = self.never_started = False

    def poll(self, server: Server) -> None:
        """Read the heartbeat. The daemon is dead if the heartbeat has not changed for :data:`DAEMON_SECONDS`."""
        health = server.take(server.take(server.ask(DAEMON), "instance", dict), "daemonHealth", dict)
        for status in server.take(health, "allDaemonStatuses", list):
            if status.get("daemonType") == "QUEUED_RUN_COORDINATOR" and status.get("required"):
                heartbeat = status.get("lastHeartbeatTime")
                if heartbeat != self._heartbeat:
                    self._heartbeat, self._since = heartbeat, time.monotonic()
                self.never_started = heartbeat is None
                self.is_dead = time.monotonic() - self._since > DAEMON_SECONDS


def _timed_out(server: Server, run: str, state: RunState, daemon: Daemon) -> RemoteError:
    """Return the error of a run that did not end in time. Withdraw the run if it is queued, so that runs do not pile up."""
    page = server.run_page(run)
    if state.status not in {"QUEUED", "NOT_STARTED"}:
        last = f" (last: {state.step})" if state.step else ""
        return RemoteError(
            f"the run has not ended in time{last}; it continues, and another call reuses what it has finished. See {page}: stop "
            "the run there if it hangs, or wait longer with --wait"
        )
    withdrawn = "and was withdrawn"
    try:
        server.ask(STOP, run=run)
    except RemoteError:
        withdrawn = "and could not be withdrawn"
    if daemon.is_dead or daemon.never_started:
        return RemoteError(
            f"the run was queued {withdrawn}: the server has no running daemon; start 'dagster-daemon run' there"
        )
    return RemoteError(
        f"the run was queued all the time {withdrawn}: other runs are before it; see {server.address}/runs, or wait longer with "
        "--wait"
    )

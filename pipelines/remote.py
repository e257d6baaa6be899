"""``mobileclip2 evaluate --dagster``: a Dagster server evaluates, this process asks and waits.

The server judges by its own profile and sends the table and the verdict, so that the caller needs neither the store nor torch.
"""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mobileclip2.errors import RemoteError, UserError
from pipelines.graphql import REQUEST_SECONDS, Away, Server, clean

JOB = "evaluate"
OP = "evaluate_student"
FAILED_ENTRY, TABLE_ENTRY = "gate fails", "comparison"
"""labels in the metadata of the op's output"""

POLL_SECONDS = 2.0
AWAY_SECONDS = 120.0
"""a server that is not back by then is taken for gone"""
DAEMON_SECONDS = 120.0
"""a daemon's heart, which beats every 30 s, has stopped by then"""

LONGEST_FAILURE = 2000
"""characters; the whole of it is on the run's page"""

PASSED, GATE_FAILED = 0, 3
NOT_BEGUN = {"QUEUED", "NOT_STARTED"}
ENDED = {"SUCCESS", "FAILURE", "CANCELED"}

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

LOOK = """
query Look($run: ID!, $after: String) {
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
          }
        }
      }
    }
    ... on Error { message }
  }
}
"""

DAEMON = """
query Daemon {
  instance { daemonHealth { allDaemonStatuses { daemonType required lastHeartbeatTime } } }
}
"""

STOP = """
mutation Stop($run: String!) { terminateRun(runId: $run) { __typename } }
"""


@dataclass(frozen=True)
class Job:
    """Where the server has the job ``evaluate``."""

    location: str
    repository: str


@dataclass
class Seen:
    """What is known of a run so far."""

    status: str = ""
    cursor: str | None = None
    more: bool = False
    step: str = ""
    """the last thing that it said of its progress"""
    failure: str = ""
    table: str | None = None
    gate_fails: bool | None = None


def evaluate_remotely(
    server: Server, student: str, baseline: str | None, location: str | None, minutes: float, markdown: Path | None
) -> int:
    """Launch the job ``evaluate``, wait at most ``minutes``, print the table, and return the gate's exit status.

    Raises:
        RemoteError: there is no verdict; says why, and what becomes of the run.
    """
    until = time.monotonic() + 60 * minutes
    job = find_job(server, location)
    run = launch(server, job, student, baseline)
    tell(f"launched in '{job.location}': {server.run_page(run)}")
    seen = wait(server, run, until)
    if seen.status != "SUCCESS":
        ended = "was canceled" if seen.status == "CANCELED" else f"failed: {seen.failure or 'it does not say why'}"
        raise RemoteError(f"the run {ended}; see {server.run_page(run)}, mend the cause and call again")
    if seen.table is None or seen.gate_fails is None:
        raise RemoteError(f"the run ended without a verdict; see {server.run_page(run)} and deploy this version there")
    text = f"{seen.table}\n[Run {run[:8]}]({server.run_page(run)}) of the code location '{job.location}'.\n"
    print(text, end="")
    if markdown:
        try:
            markdown.write_text(text, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--markdown {markdown}: {error.strerror}; give another path") from None
    return GATE_FAILED if seen.gate_fails else PASSED


def find_job(server: Server, location: str | None) -> Job:
    """Where the job is: in the code location that was named, else in the only one that has it.

    Raises:
        RemoteError: it is nowhere, in several, or its location does not load.
    """
    workspace = server.take(server.ask(LOCATIONS), "workspaceOrError", dict)
    entries = server.take(workspace, "locationEntries", list)
    names = [clean(server.take(entry, "name", str)) for entry in entries]
    if location is not None and location not in names:
        raise RemoteError(
            f"{server.address} has no code location '{location}', it has {_listed(names)}; deploy it or correct --location"
        )
    found, broken = [], []
    for name, entry in zip(names, entries, strict=True):
        loaded = entry.get("locationOrLoadError")
        if location not in {None, name}:
            continue
        if isinstance(loaded, dict) and loaded.get("__typename") == "RepositoryLocation":
            for repository in server.take(loaded, "repositories", list):
                jobs = [server.take(each, "name", str) for each in server.take(repository, "jobs", list)]
                if JOB in jobs:
                    found.append(Job(name, server.take(repository, "name", str)))
        else:
            broken.append(f"'{name}' ({_first_line(loaded.get('message')) if isinstance(loaded, dict) else 'loading'})")
    if broken and not found:
        raise RemoteError(f"{server.address}: code location does not load: {', '.join(broken)}; mend it and reload it")
    if not found:
        raise RemoteError(f"{server.address}: no code location has the job '{JOB}'; deploy this version there")
    if len(found) > 1:
        several = _listed([job.location for job in found])
        raise RemoteError(f"{server.address}: the job '{JOB}' is in {several}; choose one with --location")
    return found[0]


def launch(server: Server, job: Job, student: str, baseline: str | None) -> str:
    """Launch a run through the server's run coordinator, and return its id.

    Raises:
        RemoteError: the server refuses, or does not say whether there is a run now.
    """
    config = {"student": student} | ({"baseline": baseline} if baseline else {})
    parameters = {
        "selector": {
            "repositoryLocationName": job.location,
            "repositoryName": job.repository,
            "jobName": JOB,
        },
        "runConfigData": {"ops": {OP: {"config": config}}},
        # who waits for this run is told that it failed; another one would go on unwatched
        "executionMetadata": {"tags": [{"key": "dagster/max_retries", "value": "0"}]},
    }
    try:
        result = server.take(server.ask(LAUNCH, parameters=parameters), "launchRun", dict)
    except Away as error:
        raise RemoteError(f"{error}. It may have launched the run: see {server.address}/runs") from None
    if result.get("__typename") == "LaunchRunSuccess":
        return server.take(server.take(result, "run", dict), "runId", str)
    errors = result.get("errors") or [result]
    messages = [_first_line(error.get("message")) for error in errors if isinstance(error, dict)]
    raise RemoteError(f"{server.address}: the run was refused: {'; '.join(messages)}; deploy this version there")


def wait(server: Server, run: str, until: float) -> Seen:
    """Follows a run to its end.

    Raises:
        RemoteError: it did not end in time, the server is gone, or its queue has no daemon.
    """
    seen, answered, daemon = Seen(), time.monotonic(), Daemon()
    while True:
        left = until - time.monotonic()
        try:
            look(server, run, seen, min(REQUEST_SECONDS, max(1.0, left)))
            if seen.status == "QUEUED":
                daemon.look(server)
        except Away as error:
            if time.monotonic() >= min(until, answered + AWAY_SECONDS):
                raise RemoteError(f"{error}. The run {run} may go on there: call again when it is back") from None
        else:
            answered = time.monotonic()
            if seen.more and left > -REQUEST_SECONDS:
                continue
            if seen.status in ENDED:
                return seen
            if daemon.is_dead or left <= 0:
                raise _given_up(server, run, seen, daemon)
        time.sleep(min(POLL_SECONDS, max(0.0, until - time.monotonic())))


def look(server: Server, run: str, seen: Seen, seconds: float) -> None:
    """Take in what has happened since the last look."""
    before = seen.status
    answer = server.ask(LOOK, seconds, run=run, after=seen.cursor)
    found = server.take(answer, "runOrError", dict)
    if found.get("__typename") == "RunNotFoundError":
        raise RemoteError(f"{server.address}: the run {run} was deleted; call again")
    status = server.take(found, "status", str)
    events = server.take(answer, "logsForRun", dict)
    # the last events of a run that has ended may have come after this answer's: they are asked for once more
    seen.more = server.take(events, "hasMore", bool) or (status in ENDED and before != status)
    seen.status, seen.cursor = status, server.take(events, "cursor", str)
    if status != before and status not in ENDED:
        tell(clean(status).lower().replace("_", " "))
    for event in server.take(events, "events", list):
        take_in(server, event, seen)


def take_in(server: Server, event: dict[str, Any], seen: Seen) -> None:
    """Record what one event says of the run: its step, failure, table or verdict."""
    kind = server.take(event, "__typename", str)
    if kind == "LogMessageEvent":
        seen.step = _first_line(event.get("message"))
        tell(seen.step)
    elif kind == "ExecutionStepFailureEvent":
        said = (event.get("failureMetadata") or {}).get("description") or (event.get("error") or {}).get("message")
        seen.failure = clean(str(said)).strip()[:LONGEST_FAILURE]
    elif kind == "RunFailureEvent" and not seen.failure:
        seen.failure = _first_line((event.get("error") or {}).get("message") or event.get("message"))
    elif kind == "ExecutionStepOutputEvent":
        for entry in server.take(event, "metadataEntries", list):
            if entry.get("label") == FAILED_ENTRY:
                seen.gate_fails = server.take(entry, "boolValue", bool)
            elif entry.get("label") == TABLE_ENTRY:
                seen.table = clean(server.take(entry, "mdStr", str))


class Daemon:
    """Whether the daemon that starts queued runs lives: its heartbeats, by this machine's clock."""

    def __init__(self) -> None:
        self._beat: object = None
        self._since = time.monotonic()
        self.is_dead = self.never_lived = False

    def look(self, server: Server) -> None:
        """Read the daemon's heartbeat. The daemon counts as dead if the heartbeat stands for :data:`DAEMON_SECONDS`."""
        health = server.take(server.take(server.ask(DAEMON), "instance", dict), "daemonHealth", dict)
        for each in server.take(health, "allDaemonStatuses", list):
            if each.get("daemonType") == "QUEUED_RUN_COORDINATOR" and each.get("required"):
                beat = each.get("lastHeartbeatTime")
                if beat != self._beat:
                    self._beat, self._since = beat, time.monotonic()
                self.never_lived = beat is None
                self.is_dead = time.monotonic() - self._since > DAEMON_SECONDS


def _given_up(server: Server, run: str, seen: Seen, daemon: Daemon) -> RemoteError:
    """Withdraw a run that waits, or every call would leave one more in the queue. Leave a run that works."""
    page = server.run_page(run)
    if seen.status not in NOT_BEGUN:
        said = f" (last: {seen.step})" if seen.step else ""
        return RemoteError(
            f"the run has not ended in time{said}; it goes on, and another call finds what it has finished. See {page}, and stop "
            "it there if it hangs, or give it longer with --wait"
        )
    try:
        server.ask(STOP, run=run)
    except RemoteError:
        withdrawn = "and could not be withdrawn"
    else:
        withdrawn = "and was withdrawn"
    if daemon.is_dead or daemon.never_lived:
        return RemoteError(
            f"the run was queued {withdrawn}: the server has no living daemon; start 'dagster-daemon run' there"
        )
    return RemoteError(
        f"the run was queued all the time {withdrawn}: others are before it; see {server.address}/runs, or give it longer with "
        "--wait"
    )


def tell(text: str) -> None:
    """Progress goes where it is not taken for the table."""
    print(f"mobileclip2: {text}", file=sys.stderr, flush=True)


def _first_line(text: object) -> str:
    lines = clean(str(text or "")).strip().splitlines()
    return lines[0][:500] if lines else ""


def _listed(names: list[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "none"

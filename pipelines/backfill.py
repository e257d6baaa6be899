"""Submit partitions to a Dagster server as one asset backfill, and wait for it.

Dagster's daemon orders the runs, limits them, retries lost ones, and continues with what does not depend on a failed one. As
:mod:`pipelines.graphql`, this needs only the standard library.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from typing import Any

from mobileclip2.asset_key import AssetKey
from mobileclip2.errors import RemoteError
from pipelines.graphql import REQUEST_SECONDS, Away, Server, clean, first_line, log

BACKFILL_TAG = "dagster/backfill"
"""tag of Dagster on the runs of a backfill"""

PARTITION_TAGS = ("dagster/partition", "dagster/asset_partition_range_start")

AWAY_SECONDS = 120.0
"""time after which a server that does not answer is given up"""
POLL_SECONDS = 2.0

SHOWN_FAILURES = 20

SUBMIT = """
mutation Submit($parameters: LaunchBackfillParams!) {
  launchPartitionBackfill(backfillParams: $parameters) {
    __typename
    ... on LaunchBackfillSuccess { backfillId }
    ... on Error { message }
  }
}
"""

STATUS = """
query Status($backfill: String!) {
  partitionBackfillOrError(backfillId: $backfill) {
    __typename
    ... on PartitionBackfill {
      status
      error { message }
      assetBackfillData {
        assetBackfillStatuses {
          ... on AssetPartitionsStatusCounts {
            numPartitionsTargeted numPartitionsInProgress numPartitionsMaterialized numPartitionsFailed
          }
          ... on UnpartitionedAssetStatus { inProgress materialized failed }
        }
      }
    }
    ... on Error { message }
  }
}
"""

FAILED_RUNS = """
query FailedRuns($filter: RunsFilter!) {
  runsOrError(filter: $filter) {
    __typename
    ... on Runs { results { runId status parentRunId assetSelection { path } tags { key value } } }
    ... on Error { message }
  }
}
"""

FAILED_STEPS = """
query FailedSteps($run: ID!, $after: String) {
  logsForRun(runId: $run, afterCursor: $after) {
    __typename
    ... on EventConnection {
      cursor
      hasMore
      events {
        __typename
        ... on ExecutionStepFailureEvent { stepKey error { message } failureMetadata { description } }
        ... on RunFailureEvent { message error { message } }
      }
    }
    ... on Error { message }
  }
}
"""


def submit(
    server: Server,
    partitions: Iterable[tuple[str, str | None]],
    title: str,
    tags: dict[str, str],
    prefix: str | None = None,
) -> str:
    """Submit one asset backfill of exactly the given assets and groups, and return its id.

    Args:
        prefix: The first part of Dagster's keys, if the profile has one.

    Raises:
        RemoteError: The server refuses, or does not answer.
    """
    groups: dict[str, list[str]] = {}
    for asset, group in partitions:
        groups.setdefault(asset, []).extend([group] if group else [])
    parameters = {
        "partitionsByAssets": [
            {
                "assetKey": {"path": [*([prefix] if prefix else []), AssetKey(asset).dotted]},
                "partitions": {"ranges": [{"start": name, "end": name} for name in names]} if names else None,
            }
            for asset, names in groups.items()
        ],
        "tags": [{"key": key, "value": value} for key, value in tags.items()],
        "title": title,
    }
    answer = server.take(server.ask(SUBMIT, parameters=parameters), "launchPartitionBackfill", dict)
    if answer.get("__typename") == "LaunchBackfillSuccess":
        return server.take(answer, "backfillId", str)
    raise RemoteError(f"{server.address}: the backfill was refused: {first_line(answer.get('message'))}")


def wait_for_backfill(server: Server, backfill: str, until: float) -> None:
    """Wait until a backfill has ended, and log its progress.

    Raises:
        RemoteError: A run of the backfill failed, it was canceled, it did not end in time, or the server is gone. The message
            names each failed asset and group.
    """
    page = f"{server.address}/runs/b/{backfill}"
    log(f"backfill: {page}")
    answered, shown = time.monotonic(), ""
    while True:
        left = until - time.monotonic()
        try:
            seconds = min(REQUEST_SECONDS, max(1.0, left))
            found = _ask(server, STATUS, "partitionBackfillOrError", seconds, backfill=backfill)
        except Away as error:
            if time.monotonic() >= min(until, answered + AWAY_SECONDS):
                raise RemoteError(f"{error}. The backfill {backfill} may continue there") from None
        else:
            answered = time.monotonic()
            status, counts = server.take(found, "status", str), counts_of(server, found)
            if counts != shown:
                log(shown := counts)
            if status not in {"REQUESTED", "CANCELING", "FAILING"}:
                break
            if left <= 0:
                raise RemoteError(
                    f"the backfill has not ended in time ({counts}); it continues, and another call reuses what it has "
                    f"finished. See {page}, or wait longer with --wait"
                )
        time.sleep(min(POLL_SECONDS, max(0.0, until - time.monotonic())))
    if status == "COMPLETED_SUCCESS":
        return
    if status == "CANCELED":
        raise RemoteError(f"the backfill was canceled; see {page}, and call again")
    failures = failures_of(server, backfill) or [first_line((found.get("error") or {}).get("message"))]
    summary = f"the backfill failed ({counts}); see {page}, fix the causes and call again"
    raise RemoteError("\n".join([summary, *failures]))


def counts_of(server: Server, found: dict[str, Any]) -> str:
    """Describe how many asset-group pairs of a backfill are in which state."""
    if not isinstance(data := found.get("assetBackfillData"), dict):
        return "the server does not know its asset-group pairs yet"
    totals = [0, 0, 0, 0]
    for each in server.take(data, "assetBackfillStatuses", list):
        if "numPartitionsTargeted" in each:
            names = ("Targeted", "Materialized", "Failed", "InProgress")
            numbers = [server.take(each, f"numPartitions{name}", int) for name in names]
        else:
            numbers = [1, *(server.take(each, name, bool) for name in ("materialized", "failed", "inProgress"))]
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
    total, computed, failed, running = totals
    failures = f", {failed} failed or depend on a failed one" if failed else ""
    return f"{computed} of {total} asset-group pairs are computed, {running} in progress{failures}"


def failures_of(server: Server, backfill: str) -> list[str]:
    """Return a line for each asset and group of a backfill whose last run failed, with its message."""
    runs = _ask(server, FAILED_RUNS, "runsOrError", filter={"tags": [{"key": BACKFILL_TAG, "value": backfill}]})
    results = server.take(runs, "results", list)
    retried = {run.get("parentRunId") for run in results}
    failed = [run for run in results if run.get("status") == "FAILURE" and run.get("runId") not in retried]
    lines = [line for run in failed[:SHOWN_FAILURES] for line in _failures_of_run(server, run)]
    more = len(failed) - SHOWN_FAILURES
    return [*lines, f"and {more} more runs"] if more > 0 else lines


def assets_by_step(run: dict[str, Any]) -> dict[str, AssetKey]:
    """Return the assets of a run by the names of its steps. Dagster makes the name of a step from the key of its asset."""
    paths = [key["path"] for key in run.get("assetSelection") or []]
    return {re.sub(r"\W", "_", "__".join(path)): AssetKey.from_dotted(path[-1]) for path in paths}


def _failures_of_run(server: Server, run: dict[str, Any]) -> list[str]:
    tags = {tag.get("key"): tag.get("value") for tag in server.take(run, "tags", list)}
    name = next((tags[tag] for tag in PARTITION_TAGS if tags.get(tag)), None)
    group = f" [{name}]" if name else ""
    by_step = assets_by_step(run)
    steps, of_run, cursor = [], "", None
    while True:
        answer = _ask(server, FAILED_STEPS, "logsForRun", run=server.take(run, "runId", str), after=cursor)
        cursor = server.take(answer, "cursor", str)
        for event in server.take(answer, "events", list):
            metadata, error = event.get("failureMetadata") or {}, event.get("error") or {}
            message = metadata.get("description") or error.get("message")
            if event.get("__typename") == "ExecutionStepFailureEvent":
                step = server.take(event, "stepKey", str)
                asset = by_step.get(step, step)
                steps.append(clean(f"{asset}{group}: {str(message).strip()}"))
            elif event.get("__typename") == "RunFailureEvent":
                of_run = first_line(message or event.get("message"))
        if not answer.get("hasMore"):
            return steps or [f"run {server.take(run, 'runId', str)[:8]}{group}: {of_run}"]


def _ask(
    server: Server, query: str, field: str, seconds: float = REQUEST_SECONDS, **variables: object
) -> dict[str, Any]:
    answer = server.take(server.ask(query, seconds, **variables), field, dict)
    if "message" in answer and answer.get("__typename", "").endswith("Error"):
        raise RemoteError(f"{server.address}: {first_line(answer['message'])}")
    return answer

"""The responses of a stand-in server about a backfill. ``test_refresh.py`` uses a real server."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from mobileclip2.errors import RemoteError
from pipelines import backfill
from pipelines.backfill import failures_of, submit, wait_for_backfill
from pipelines.graphql import Server
from tests.pipelines.test_graphql import answering, data


def statuses(*each: dict[str, object]) -> dict[str, Any]:
    return {"assetBackfillStatuses": list(each)}


PARTITIONED = {
    "numPartitionsTargeted": 4,
    "numPartitionsInProgress": 1,
    "numPartitionsMaterialized": 2,
    "numPartitionsFailed": 1,
}
UNPARTITIONED = {"inProgress": False, "materialized": True, "failed": False}


def state(status: str, *each: dict[str, object]) -> dict[str, Any]:
    return {"__typename": "PartitionBackfill", "status": status, "error": None, "assetBackfillData": statuses(*each)}


def test_exactly_the_given_groups_are_submitted() -> None:
    success = {"__typename": "LaunchBackfillSuccess", "backfillId": "abc"}
    pairs = [("raw_shards", "g00"), ("raw_shards", "g02"), ("teacher/wide", None)]
    with answering(lambda body: data(launchPartitionBackfill=success)) as (address, asked):
        assert submit(Server(address), pairs, "title", {"tag": "t"}) == "abc"
    ((_, body),) = asked
    assert body["variables"]["parameters"] == {
        "partitionsByAssets": [
            {
                "assetKey": {"path": ["raw_shards"]},
                "partitions": {"ranges": [{"start": "g00", "end": "g00"}, {"start": "g02", "end": "g02"}]},
            },
            {"assetKey": {"path": ["teacher.wide"]}, "partitions": None},
        ],
        "tags": [{"key": "tag", "value": "t"}],
        "title": "title",
    }


def test_a_refused_backfill_shows_the_server_message() -> None:
    refusal = {"__typename": "UnauthorizedError", "message": "no\nstack"}
    with (
        answering(lambda body: data(launchPartitionBackfill=refusal)) as (address, _),
        pytest.raises(RemoteError, match=r"the backfill was refused: no$"),
    ):
        submit(Server(address), [("raw_shards", "g00")], "", {})


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backfill, "POLL_SECONDS", 0.02)


def wait(answers: Iterator[dict[str, Any]], seconds: float = 30) -> None:
    with answering(lambda body: data(**next(answers))) as (address, _):
        wait_for_backfill(Server(address), "abc", time.monotonic() + seconds)


def test_counts_are_logged_when_they_change(capsys: pytest.CaptureFixture[str]) -> None:
    running = {"partitionBackfillOrError": state("REQUESTED", PARTITIONED, UNPARTITIONED)}
    wait(iter([running, running, {"partitionBackfillOrError": state("COMPLETED_SUCCESS", UNPARTITIONED)}]))
    lines = capsys.readouterr().err.splitlines()[1:]
    assert lines == [
        "mobileclip2: 3 of 5 asset-group pairs are computed, 1 in progress, 1 failed or depend on a failed one",
        "mobileclip2: 1 of 1 asset-group pairs are computed, 0 in progress",
    ]


def run(name: str, status: str, parent: str | None = None) -> dict[str, Any]:
    tags = [{"key": "dagster/asset_partition_range_start", "value": "g01"}]
    selection = [{"path": [key]} for key in ("raw_shards", "teacher_embeddings.wide.image")]
    return {"runId": name, "status": status, "parentRunId": parent, "assetSelection": selection, "tags": tags}


def failure(step: str, message: str) -> dict[str, Any]:
    event = {
        "__typename": "ExecutionStepFailureEvent",
        "stepKey": step,
        "error": {"message": "Failure"},
        "failureMetadata": {"description": message},
    }
    return {"logsForRun": {"__typename": "EventConnection", "cursor": "1", "hasMore": False, "events": [event]}}


def test_all_failures_except_those_of_retried_runs_are_reported() -> None:
    runs = [run("1", "FAILURE"), run("2", "FAILURE"), run("3", "SUCCESS", parent="2"), run("4", "FAILURE")]
    answers = iter(
        [
            {"runsOrError": {"__typename": "Runs", "results": runs}},
            failure("raw_shards", "cut off\x1b[31m"),
            failure("teacher_embeddings_wide_image", "no memory"),
        ]
    )
    with answering(lambda body: data(**next(answers))) as (address, _):
        found = failures_of(Server(address), "abc")
    assert found == ["raw_shards [g01]: cut off[31m", "teacher_embeddings/wide/image [g01]: no memory"]


@pytest.mark.parametrize(
    ("status", "message"),
    [("CANCELED", "the backfill was canceled; see http"), ("REQUESTED", "has not ended in time")],
)
def test_a_canceled_or_late_backfill_reports_the_reason(status: str, message: str) -> None:
    def forever() -> Iterator[dict[str, Any]]:
        while True:
            yield {"partitionBackfillOrError": state(status, PARTITIONED)}

    with pytest.raises(RemoteError, match=message):
        wait(forever(), seconds=0.1)


def test_an_unknown_backfill_is_an_error() -> None:
    gone = {"partitionBackfillOrError": {"__typename": "BackfillNotFoundError", "message": "no backfill abc"}}
    with pytest.raises(RemoteError, match="no backfill abc"):
        wait(iter([gone]))

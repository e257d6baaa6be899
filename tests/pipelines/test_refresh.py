"""The job ``refresh``, with a stand-in for the server and on a server with a daemon."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import dagster as dg
import pytest

from assets.keys import library_key
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import RemoteError
from pipelines import refresh
from pipelines.definitions import definitions_of
from pipelines.graphql import ADDRESS, Server
from pipelines.refresh import REFRESH_TAG
from pipelines.remote import BACKFILL_ENTRY, REFRESH_OP, refresh_remotely
from tests.pipelines.server import FAST_DAEMON, Dagster
from tests.pipelines.small import edited, without_models
from tests.ui.server import free_port

Pair = tuple[str, str | None]


def launch(pipeline: Pipeline, instance: dg.DagsterInstance, *assets: str) -> dg.ExecuteInProcessResult:
    job = definitions_of(pipeline.profile).resolve_job_def("refresh")
    config = {"ops": {REFRESH_OP: {"config": {"assets": list(assets)}}}} if assets else None
    return job.execute_in_process(instance=instance, run_config=config, raise_on_error=False)


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (failure,) = [event for event in result.all_events if event.is_step_failure]
    data = failure.step_failure_data.user_failure_data
    assert data is not None
    return str(data.description)


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[list[Pair], dict[str, str]]]:
    """Return a list that collects the pairs and tags of each submitted backfill."""
    found: list[tuple[list[Pair], dict[str, str]]] = []

    def submit(server: Server, partitions: list[Pair], title: str, tags: dict[str, str], prefix: str | None) -> str:
        found.append((list(partitions), tags))
        return "abcdefgh"

    monkeypatch.setattr(refresh, "submit", submit)
    return found


def test_the_plan_is_submitted_and_shown(
    smallest: Path, instance: dg.DagsterInstance, submitted: list[tuple[list[Pair], dict[str, str]]]
) -> None:
    pipeline = Pipeline(load(smallest))
    result = launch(pipeline, instance)
    assert submitted == [(plan(pipeline).pairs, {REFRESH_TAG: result.run_id})]
    (event,) = [event for event in result.all_events if event.is_successful_output]
    shown = event.step_output_data.metadata
    assert shown["pairs"].value == 5
    assert [row.data["asset"] for row in shown["plan"].records] == [
        "raw_shards",
        "augmentations",
        "caption_corpus/clean",
    ]
    assert shown["plan"].records[1].data["why"] == "new; upstream raw_shards"
    assert shown[BACKFILL_ENTRY].value == "abcdefgh" and shown["backfill"].value == "/runs/b/abcdefgh"


def test_only_some_assets_and_what_they_need(
    smallest: Path, instance: dg.DagsterInstance, submitted: list[tuple[list[Pair], dict[str, str]]]
) -> None:
    launch(Pipeline(load(smallest)), instance, "augmentations")
    ((pairs, _),) = submitted
    assert pairs == [(asset, group) for asset in ("raw_shards", "augmentations") for group in ("g00", "g01")]


def test_an_empty_plan_is_not_submitted(
    finished: Path, instance: dg.DagsterInstance, submitted: list[tuple[list[Pair], dict[str, str]]]
) -> None:
    result = launch(Pipeline(load(finished)), instance)
    assert result.success and not submitted


def test_an_unknown_asset_is_reported(smallest: Path, instance: dg.DagsterInstance) -> None:
    result = launch(Pipeline(load(smallest)), instance, "student/nobody")
    assert failure_of(result).startswith("there is no asset 'student/nobody'")


def test_a_missing_source_fails_the_job_with_the_stage_message(smallest: Path, instance: dg.DagsterInstance) -> None:
    shutil.rmtree(smallest.parent / "corpus")
    assert "no such folder, or it is empty" in failure_of(launch(Pipeline(load(smallest)), instance))


def test_an_unreachable_webserver_is_reported_with_its_environment_variable(
    smallest: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv(ADDRESS, address)
    message = failure_of(launch(Pipeline(load(smallest)), instance))
    assert message.startswith(f"the backfill was not submitted: {address}: cannot be reached") and ADDRESS in message


@pytest.fixture(scope="module")
def profile(tiny_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    profile = Path(shutil.copytree(tiny_template, tmp_path_factory.mktemp("refresh") / "tiny")) / "tiny.yaml"
    edited(profile, without_models)
    return profile


@pytest.fixture(scope="module")
def dagster(profile: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Dagster]:
    with ExitStack() as stack:
        yield Dagster(profile, tmp_path_factory.mktemp("dagster"), stack, daemon=FAST_DAEMON).with_daemon()


def computed(dagster: Dagster) -> list[Pair]:
    """Return the (asset, group) pairs that the runs of backfills computed, in order."""
    with dg.DagsterInstance.from_config(str(dagster.folder)) as instance:
        runs = [record.dagster_run for record in instance.get_run_records(ascending=True)]
        return [
            (library_key(event.asset_key), event.partition)
            for run in runs
            if REFRESH_TAG in run.tags
            for entry in instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
            if (event := entry.get_dagster_event()) and event.asset_key
        ]


@pytest.mark.slow
def test_the_daemon_computes_the_plan_and_continues_after_a_failure(
    dagster: Dagster, profile: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shard = profile.parent / "shards" / "00001.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    corpus = profile.parent / "corpus" / "00000.tar"
    clean = corpus.read_bytes()
    corpus.write_bytes(clean[: len(clean) // 2])
    server = Server(dagster.url)
    with pytest.raises(RemoteError) as raised:
        refresh_remotely(server, [], None, 5)
    first, *failures = str(raised.value).splitlines()
    assert "1 of 5" not in first and "2 of 5 asset-group pairs are computed" in first, raised.value
    assert sorted(line.partition(":")[0] for line in failures) == ["caption_corpus/clean", "raw_shards [g01]"]
    assert "00001.tar: cut off or damaged at byte" in str(raised.value)
    assert sorted(computed(dagster)) == [("augmentations", "g00"), ("raw_shards", "g00")]

    shard.write_bytes(content)
    corpus.write_bytes(clean)
    refresh_remotely(server, ["caption_corpus/clean"], None, 5)
    assert computed(dagster)[2:] == [("caption_corpus/clean", None)]
    refresh_remotely(server, [], None, 5)
    assert sorted(computed(dagster)[3:]) == [("augmentations", "g01"), ("raw_shards", "g01")]
    assert plan(Pipeline(load(profile))).items == ()
    capsys.readouterr()
    refresh_remotely(server, [], None, 5)
    assert capsys.readouterr().out == "nothing to compute\n"


@pytest.mark.slow
def test_a_changed_graph_requires_a_reload(dagster: Dagster, profile: Path) -> None:
    edited(profile, lambda values: values["caption_corpora"].append({"name": "more", "url": "corpus"}))
    with pytest.raises(
        RemoteError, match=r"the run failed: the backfill was not submitted: (.|\n)*reload the definitions"
    ):
        refresh_remotely(Server(dagster.url), [], None, 5)

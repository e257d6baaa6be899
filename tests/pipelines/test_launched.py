"""Runs that a refresh in a cluster launches. Here each of them is executed in the process of the test."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines import launched
from pipelines.definitions import definitions_of
from pipelines.launched import execute_launched, is_launched

CODE = RepositoryPythonOrigin(sys.executable, ModuleCodePointer("pipelines.definitions", "defs"), container_image="i")
LOCATION = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("location"), "__repository__")


@pytest.fixture
def job(tiny: Path) -> dg.JobDefinition:
    """Return the job of all assets of the tiny profile."""
    return definitions_of(load(tiny)).get_repository_def().get_implicit_global_asset_job_def()


@dg.job
def refresh() -> None: ...


@pytest.fixture
def parent(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """Return the run of a refresh, as the launcher starts it."""
    return instance.create_run_for_job(
        refresh,
        remote_job_origin=RemoteJobOrigin(LOCATION, "refresh"),
        job_code_origin=JobPythonOrigin("refresh", CODE),
    )


@pytest.fixture
def runs(instance: dg.DagsterInstance, job: dg.JobDefinition, monkeypatch: pytest.MonkeyPatch) -> list[dg.DagsterRun]:
    """Return the launched runs. Each is executed at once in this process."""
    found: list[dg.DagsterRun] = []

    def launch(run_id: str, workspace: object) -> dg.DagsterRun:
        run = instance.get_run_by_id(run_id)
        assert run is not None and run.asset_selection is not None
        found.append(run)
        done = job.execute_in_process(
            instance=instance,
            asset_selection=list(run.asset_selection),
            partition_key=run.tags.get("dagster/partition"),
            raise_on_error=False,
        )
        outcome = instance.get_run_by_id(done.run_id)
        monkeypatch.setattr(instance, "get_run_by_id", lambda _: outcome)
        return run

    monkeypatch.setattr(instance, "launch_run", launch)
    monkeypatch.setattr(launched, "POLL_SECONDS", 0.0)
    return found


def test_only_runs_of_a_launcher_can_launch_others(parent: dg.DagsterRun, instance: dg.DagsterInstance) -> None:
    assert is_launched(parent)
    assert not is_launched(instance.create_run_for_job(refresh))


def test_a_run_has_one_asset_and_group_and_the_image_of_its_parent(
    parent: dg.DagsterRun, job: dg.JobDefinition, instance: dg.DagsterInstance, runs: list[dg.DagsterRun], tiny: Path
) -> None:
    ended = execute_launched(parent, job, instance, dg.AssetKey("raw_shards"), "g01", {"tag": "t"})
    (run,) = runs
    assert ended.is_success
    assert run.asset_selection == {dg.AssetKey("raw_shards")}
    assert run.tags["dagster/partition"] == "g01" and run.tags["tag"] == "t"
    assert run.job_code_origin is not None and run.job_code_origin.repository_origin == CODE
    assert run.remote_job_origin is not None and run.remote_job_origin.repository_origin == LOCATION
    assert Pipeline(load(tiny)).read("raw_shards", "g01")


def test_a_failed_run_is_returned(
    parent: dg.DagsterRun, job: dg.JobDefinition, instance: dg.DagsterInstance, runs: list[dg.DagsterRun], tiny: Path
) -> None:
    shutil.rmtree(tiny.parent / "corpus")
    ended = execute_launched(parent, job, instance, dg.AssetKey("caption_corpus.clean"), None, {})
    assert ended.status == dg.DagsterRunStatus.FAILURE and "dagster/partition" not in runs[0].tags


def test_an_interrupted_refresh_ends_the_run_that_it_waits_for(
    parent: dg.DagsterRun, job: dg.JobDefinition, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(instance, "launch_run", lambda run_id, workspace: instance.get_run_by_id(run_id))
    monkeypatch.setattr(type(instance.run_launcher), "terminate", lambda self, run_id: ended.append(run_id))
    monkeypatch.setattr(launched.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        execute_launched(parent, job, instance, dg.AssetKey("raw_shards"), "g00", {})
    (run_id,) = ended
    assert run_id != parent.run_id

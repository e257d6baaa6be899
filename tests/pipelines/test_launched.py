"""Runs that a refresh in a cluster launches. Here each of them is executed in the process of the test."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster._core.code_pointer import ModuleCodePointer
from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
from dagster._core.remote_origin import RegisteredCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from pipelines import launched
from pipelines.definitions import definitions
from pipelines.launched import is_launched, materialize

CODE = RepositoryPythonOrigin(sys.executable, ModuleCodePointer("pipelines.definitions", "defs"), container_image="i")
LOCATION = RemoteRepositoryOrigin(RegisteredCodeLocationOrigin("location"), "__repository__")


@pytest.fixture
def pipeline(tiny: Path) -> Pipeline:
    return Pipeline(load(tiny))


@pytest.fixture
def parent(instance: dg.DagsterInstance) -> dg.DagsterRun:
    """Return the run of a refresh, as the launcher starts it."""
    return instance.create_run_for_job(
        definitions_job(),
        remote_job_origin=RemoteJobOrigin(LOCATION, "refresh"),
        job_code_origin=JobPythonOrigin("refresh", CODE),
    )


def definitions_job() -> dg.JobDefinition:
    @dg.job
    def refresh() -> None: ...

    return refresh


@pytest.fixture
def runs(instance: dg.DagsterInstance, pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> list[dg.DagsterRun]:
    """Return the launched runs. Each is executed at once in this process."""
    found: list[dg.DagsterRun] = []
    job = definitions(pipeline).get_repository_def().get_implicit_global_asset_job_def()

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


def start(parent: dg.DagsterRun, pipeline: Pipeline, instance: dg.DagsterInstance, *what: Any) -> None:
    materialize(
        parent, definitions(pipeline).get_repository_def(), instance, pipeline.graph[what[0]], what[1], {"tag": "t"}
    )


def test_only_runs_of_a_launcher_can_launch_others(parent: dg.DagsterRun, instance: dg.DagsterInstance) -> None:
    assert is_launched(parent)
    assert not is_launched(instance.create_run_for_job(definitions_job()))


def test_a_run_has_one_asset_and_group_and_the_image_of_its_parent(
    parent: dg.DagsterRun, pipeline: Pipeline, instance: dg.DagsterInstance, runs: list[dg.DagsterRun]
) -> None:
    start(parent, pipeline, instance, "raw_shards", "g01")
    (run,) = runs
    assert run.asset_selection == {dg.AssetKey("raw_shards")}
    assert run.tags["dagster/partition"] == "g01" and run.tags["dagster/max_retries"] == "0" and run.tags["tag"] == "t"
    assert run.job_code_origin is not None and run.job_code_origin.repository_origin == CODE
    assert run.remote_job_origin is not None and run.remote_job_origin.repository_origin == LOCATION
    assert pipeline.read("raw_shards", "g01")


def test_a_failed_run_says_its_cause(
    parent: dg.DagsterRun, pipeline: Pipeline, instance: dg.DagsterInstance, runs: list[dg.DagsterRun]
) -> None:
    shutil.rmtree(pipeline.profile.locate("corpus"))
    with pytest.raises(UserError, match=r"^caption_corpus/clean: .*corpus: no such folder"):
        start(parent, pipeline, instance, "caption_corpus/clean", None)


def test_an_interrupted_refresh_ends_the_run_that_it_waits_for(
    parent: dg.DagsterRun, pipeline: Pipeline, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(instance, "launch_run", lambda run_id, workspace: instance.get_run_by_id(run_id))
    monkeypatch.setattr(type(instance.run_launcher), "terminate", lambda self, run_id: ended.append(run_id))
    monkeypatch.setattr(launched.time, "sleep", interrupt)
    with pytest.raises(KeyboardInterrupt):
        start(parent, pipeline, instance, "raw_shards", "g00")
    (run_id,) = ended
    assert run_id != parent.run_id

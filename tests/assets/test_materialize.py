from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import pytest
from dagster._core.test_utils import create_run_for_test

from assets import materialize
from assets.keys import library_key
from assets.materialize import LaunchedRun, define, log_progress, partitions_of
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.progress import Step, silent


def run(pipeline: Pipeline, asset: dg.AssetsDefinition, **options: object) -> dg.ExecuteInProcessResult:
    resources = {"pipeline": dg.ResourceDefinition.hardcoded_resource(pipeline)}
    resources["on_step"] = dg.ResourceDefinition.hardcoded_resource(silent)
    return dg.materialize([asset], resources=resources, **options)


def test_partitions_are_groups_or_slices(demo: Pipeline) -> None:
    for key, expected in (
        ("raw_shards", demo.profile.group_names),
        ("evaluation/lite0", [source.name for source in demo.profile.evaluation]),
    ):
        partitions = partitions_of(demo.profile, demo.graph[key])
        assert partitions is not None and partitions.get_partition_keys() == expected
    assert partitions_of(demo.profile, demo.graph["student/plain"]) is None


def test_an_asset_has_the_key_and_the_inputs_of_the_graph(demo: Pipeline) -> None:
    asset = demo.graph["evaluation/lite0"]
    defined = define(demo.profile, asset, section="evaluation", kinds={"json"})
    (spec,) = defined.specs
    assert spec.key == dg.AssetKey("evaluation.lite0") and spec.group_name == "evaluation"
    assert [library_key(dep.asset_key) for dep in spec.deps] == asset.upstream
    assert spec.code_version == asset.code_version and spec.tags["stage"] == "evaluation"


def test_a_run_reports_the_data_version_of_the_store(tiny: Path, instance: dg.DagsterInstance) -> None:
    pipeline = Pipeline(load(tiny))
    asset = define(pipeline.profile, pipeline.graph["raw_shards"], section="raw", kinds=set())
    assert run(pipeline, asset, instance=instance, partition_key="g00").success
    event = instance.get_latest_materialization_event(dg.AssetKey("raw_shards"))
    assert event is not None and event.asset_materialization is not None
    (stored,) = pipeline.read("raw_shards", "g00")
    assert event.asset_materialization.tags["dagster/data_version"] == stored.manifest.data_version


def test_a_user_error_fails_the_run_without_retries(tiny: Path, instance: dg.DagsterInstance) -> None:
    shutil.rmtree(tiny.parent / "corpus")
    pipeline = Pipeline(load(tiny))
    asset = define(pipeline.profile, pipeline.graph["caption_corpus/clean"], section="captioners", kinds=set())
    with pytest.raises(dg.Failure) as failure:
        run(pipeline, asset, instance=instance)
    assert "no such folder" in str(failure.value.description) and not failure.value.allow_retries
    assert failure.value.__cause__ is None and not isinstance(failure.value, UserError)


def test_progress_is_logged_rarely_but_always_forwarded(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.0, 1.0, 10.0, 11.0, 21.0])
    monkeypatch.setattr(materialize.time, "monotonic", lambda: next(seconds))
    steps: list[Step] = []
    lines: list[str] = []

    class Context:
        class log:
            info = staticmethod(lines.append)

    progress = log_progress(Context, steps.append)  # type: ignore[arg-type]
    for done in (1, 20, 22, 42):
        progress(Step(done, 80, "steps", {"loss": 2.5}))
    assert [step.done for step in steps] == [1, 20, 22, 42]
    assert lines == ["20/80 steps, 2.0/s, 30 s left, loss 2.5", "42/80 steps, 2.0/s, 19 s left, loss 2.5"]


def test_only_steps_in_a_cluster_are_retried(demo: Pipeline, tmp_path: Path) -> None:
    def policy(pipeline: Pipeline) -> dg.RetryPolicy | None:
        return define(pipeline.profile, pipeline.graph["raw_shards"], section="raw", kinds=set()).op.retry_policy

    profile = tmp_path / "cluster.yaml"
    profile.write_text(f"{demo.profile.text}\ncompute: {{kubernetes: {{image: i}}}}\n")
    assert policy(demo) is None and policy(Pipeline(load(profile))) == materialize.LOST_POD


def context(instance: dg.DagsterInstance, *, launched: bool) -> Any:
    """Return the context of a step whose run is in the storage of ``instance``."""
    run = create_run_for_test(instance, "job", status=dg.DagsterRunStatus.STARTED)
    return SimpleNamespace(
        instance=instance, run=SimpleNamespace(run_id=run.run_id, remote_job_origin=launched or None)
    )


def test_a_launched_run_continues_until_it_is_canceled(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    status = LaunchedRun(here := context(instance, launched=True))
    assert status.will_resume() and not status.is_ended()
    run = instance.get_run_by_id(here.run.run_id)
    assert run is not None
    with monkeypatch.context() as patch:
        patch.setattr(instance, "get_run_by_id", lambda _: 1 / 0)
        assert status.will_resume() and not status.is_ended(), "an outage of the database ends nothing"
    instance.report_run_canceling(run)
    assert status.is_ended() and not status.will_resume()


def test_an_in_process_run_does_not_resume(instance: dg.DagsterInstance) -> None:
    status = LaunchedRun(context(instance, launched=False))
    assert not status.will_resume() and not status.is_ended()

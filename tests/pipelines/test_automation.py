"""Automation conditions, evaluated and run in this process."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import dagster as dg
import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline, TaskBatch
from mobileclip2.engine.plan import plan
from mobileclip2.errors import ShardError
from mobileclip2.stages import augmentations, raw_shards
from mobileclip2.store.lease import acquire
from pipelines.automation import OTHER_STAGES, STAGES
from pipelines.definitions import definitions_of
from tests.pipelines.small import Daemon, edited

ROOT = Path(__file__).parents[2]
ROOTS = [("raw_shards", "g00"), ("raw_shards", "g01"), ("caption_corpus/clean", None)]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[str]]:
    """Return a function that makes the views of group g01 fail a number of times.

    The function returns the list of the fingerprints of all attempts.
    """
    run = augmentations.run

    def arrange(times: int) -> list[str]:
        tries: list[str] = []

        def sometimes(batch: TaskBatch) -> None:
            if batch.group == "g01":
                tries.append(batch.tasks[0].fingerprint)
                if len(tries) <= times:
                    raise ShardError("the views are broken; repair them")
            run(batch)

        monkeypatch.setattr(augmentations, "run", sometimes)
        return tries

    return arrange


def test_each_asset_has_one_sensor_and_all_are_off(tiny: Path) -> None:
    definitions = definitions_of(load(tiny))
    graph = definitions.resolve_asset_graph()
    sensors = [each for each in definitions.sensors or () if isinstance(each, dg.AutomationConditionSensorDefinition)]
    assert {sensor.name for sensor in sensors} == {OTHER_STAGES, *STAGES}
    assert {sensor.default_status for sensor in sensors} == {dg.DefaultSensorStatus.STOPPED}
    targets = Counter(key for sensor in sensors for key in sensor.asset_selection.resolve(graph))
    assert set(targets) == graph.materializable_asset_keys and set(targets.values()) == {1}


@pytest.mark.slow
def test_automation_computes_the_plan_and_then_stops(finished: Path, instance: dg.DagsterInstance) -> None:
    shutil.rmtree(finished.parent / "store")
    daemon = Daemon(finished, instance)
    planned = plan(Pipeline(load(finished))).pairs
    daemon.until_quiet()
    assert Counter(daemon.launched) == Counter(planned) and plan(Pipeline(load(finished))).items == ()
    # The same holds after an edit, with the same definitions loaded.
    edited(finished, lambda values: values["teachers"][0].update(logit_scale=51))
    daemon.launched.clear()
    daemon.until_quiet()
    assert daemon.launched == [("student/pupil", None), ("evaluation/pupil", "shapes")]


def test_an_evaluation_is_requested_when_its_student_has_changed(finished: Path, instance: dg.DagsterInstance) -> None:
    daemon = Daemon(finished, instance, "evaluation/pupil", "evaluation/wide")
    pipeline = edited(finished, lambda values: values["teachers"][0].update(logit_scale=51))
    daemon.reload()
    assert daemon.tick() == [], "the student is not trained yet"
    pipeline.materialize("student/pupil")
    assert daemon.tick() == [("evaluation/pupil", "shapes")]


def test_embeddings_are_requested_when_their_teacher_has_changed(finished: Path, instance: dg.DagsterInstance) -> None:
    daemon = Daemon(finished, instance, "teacher_embeddings/wide/image", "teacher_embeddings/wide/text")
    weights = finished.parent / "weights"
    assert daemon.tick() == []
    from safetensors.torch import load_file, save_file

    save_file(
        {name: tensor * 2 for name, tensor in load_file(weights / "wide.safetensors").items()},
        weights / "other.safetensors",
    )
    pipeline = edited(
        finished, lambda values: values["teachers"][0]["model"]["weights"].update(path="weights/other.safetensors")
    )
    assert daemon.tick() == []
    pipeline.materialize("teacher/wide")
    assert daemon.tick() == [
        (f"teacher_embeddings/wide/{kind}", group) for kind in ("image", "text") for group in ("g00", "g01")
    ]


def test_only_assets_with_available_inputs_are_requested(smallest: Path, instance: dg.DagsterInstance) -> None:
    assert Daemon(smallest, instance).tick() == ROOTS


def test_a_failed_run_is_not_repeated_until_an_input_changes(
    smallest: Path, instance: dg.DagsterInstance, broken: Callable[[int], list[str]]
) -> None:
    tries = broken(1)
    daemon = Daemon(smallest, instance)
    for _ in range(3):
        daemon.until_quiet()
    assert len(tries) == 1
    assert plan(Pipeline(load(smallest))).pairs == [("augmentations", "g01")]
    edited(smallest, lambda values: values["views"].update(seed=7))
    daemon.reload()
    daemon.until_quiet()
    assert len(tries) == 2 and len(set(tries)) == 2
    assert plan(Pipeline(load(smallest))).items == ()


def test_an_edit_during_a_run_takes_effect_after_it(
    smallest: Path, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, edits = raw_shards.run, []

    def edit_meanwhile(batch: TaskBatch) -> None:
        run(batch)
        if not edits:
            edits.append(edited(smallest, lambda values: values["filters"].update(min_side=16)))

    edited(smallest, lambda values: values.update(filters={}))
    monkeypatch.setattr(raw_shards, "run", edit_meanwhile)
    Daemon(smallest, instance).until_quiet()
    assert edits and plan(Pipeline(load(smallest))).items == ()


def test_deleted_outputs_are_recomputed(smallest: Path, instance: dg.DagsterInstance) -> None:
    daemon = Daemon(smallest, instance)
    for _ in range(2):
        daemon.until_quiet()
        shutil.rmtree(smallest.parent / "store" / "caption_corpus")
    daemon.until_quiet()
    assert daemon.launched.count(("caption_corpus/clean", None)) == 3


def test_pairs_that_another_run_computes_are_not_requested(smallest: Path, instance: dg.DagsterInstance) -> None:
    daemon = Daemon(smallest, instance)
    pipeline = Pipeline(load(smallest))
    asset = pipeline.graph["raw_shards"]
    task = pipeline.task_for(asset, asset.slices["whole"], "g01")
    assert task
    with acquire(pipeline.storage, [task.output.prefix]):
        assert daemon.tick() == [pair for pair in ROOTS if pair != ("raw_shards", "g01")]
    assert ("raw_shards", "g01") in daemon.tick()


def test_a_group_that_is_not_loaded_is_not_requested(smallest: Path, instance: dg.DagsterInstance) -> None:
    daemon = Daemon(smallest, instance, "raw_shards")
    edited(smallest, lambda values: values.update(groups=3))
    assert daemon.tick() == [("raw_shards", "g00"), ("raw_shards", "g01")]


def test_a_tick_loads_no_torch(smallest: Path) -> None:
    code = """
import sys, dagster as dg
from pathlib import Path
from tests.pipelines.small import Daemon
with dg.DagsterInstance.ephemeral() as instance:
    assert Daemon(Path(sys.argv[1]), instance).tick()
sys.exit('torch' in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code, smallest], cwd=ROOT, check=False)
    assert done.returncode == 0

"""Evaluate a student or teacher on one set. A cache on this machine avoids embedding an image of several sets twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from mobileclip2.config.profile import Profile
from mobileclip2.data import sidecar
from mobileclip2.engine.external import Folder
from mobileclip2.engine.pipeline import Task, TaskBatch
from mobileclip2.engine.shard import local_folder
from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.results import RESULTS, SAMPLES, dumps
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.device import choose_device
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.store.user_cache import cache_folder


def run(batch: TaskBatch) -> None:
    """Evaluate the model and store the metrics and the prediction of every sample."""
    (task,) = batch.tasks
    device = choose_device(batch.profile.device)
    stored = task.only("model")
    model = load_image_text(stored, batch.inventory)
    source = task.slice.externals["set"]
    assert isinstance(source, Folder)
    model_key = f"{stored.summary.data_version}-{batch.asset.code_version}-{device.type}"
    feature_cache = cache_folder() / "features" / model_key
    with batch.inventory.unchanged(source, task.versions["set"]) as folder:
        evaluation_set = EvaluationSet(task.slice.name, folder)
        (result,) = evaluate(
            model,
            [evaluation_set],
            batch=batch.profile.batch,
            device=device,
            feature_cache=feature_cache,
            progress=batch.progress,
        )
        protocol = evaluation_set.digest
    assert result.samples is not None
    task.output.write(SAMPLES, sidecar.to_bytes(result.samples))
    task.output.write(RESULTS, dumps([replace(result, protocol=protocol)]).encode())
    task.commit([RESULTS, SAMPLES], samples=result.samples.num_rows)


@contextmanager
def planned_sets(batch: TaskBatch, task: Task, role: str, names: Iterable[str]) -> Iterator[list[EvaluationSet]]:
    """Open evaluation sets that are inputs ``<role>/<name>`` of a task. Compare them with the plan, and again after the block.

    Raises:
        ShardError: a file of a set was added, removed or changed.
    """
    with ExitStack() as stack:
        sets = []
        for name in names:
            source = task.slice.externals[f"{role}/{name}"]
            assert isinstance(source, Folder)
            folder = stack.enter_context(batch.inventory.unchanged(source, task.versions[f"{role}/{name}"]))
            sets.append(EvaluationSet(name, folder))
        yield sets


def open_set(profile: Profile, name: str) -> EvaluationSet:
    """Open an evaluation set of the profile as local files."""
    source = next(source for source in profile.evaluation if source.name == name)
    return EvaluationSet(name, Path(local_folder(profile.locate(source.url))))

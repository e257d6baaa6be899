"""Evaluate a student or teacher on one set. A cache on this machine avoids embedding an image of several sets twice."""

from __future__ import annotations

from dataclasses import replace

from mobileclip2.data import sidecar
from mobileclip2.engine.external import Folder
from mobileclip2.engine.pipeline import TaskBatch
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

"""Evaluates a student or teacher on one set. An image that another set has as well was embedded there, on the same machine."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mobileclip2.config.profile import Profile
from mobileclip2.data import sidecar as sidefile
from mobileclip2.engine.pipeline import TaskBatch
from mobileclip2.engine.source_inventory import local_folder
from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.results import RESULTS, SAMPLES, dumps
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.device import choose_device
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.store.stat_cache import cache_folder


def run(work: TaskBatch) -> None:
    """Evaluate the model on one set. Store the results and the prediction of every sample."""
    (part,) = work.parts
    device = choose_device(work.profile.device)
    stored = part.only("model")
    model = load_image_text(stored, work.contents)
    each = open_set(work.profile, part.part.name)
    made_by = f"{stored.head.data_version}-{work.asset.code_version}-{device.type}"
    kept = cache_folder() / "features" / made_by
    (result,) = evaluate(
        model, [each], batch=work.profile.batch, device=device, feature_cache=kept, progress=work.progress
    )
    assert result.samples is not None
    part.output.write(SAMPLES, sidefile.to_bytes(result.samples))
    part.output.write(RESULTS, dumps([replace(result, protocol=each.digest)]).encode())
    part.close([RESULTS, SAMPLES], samples=result.samples.num_rows)


def open_set(profile: Profile, name: str) -> EvaluationSet:
    """Open an evaluation set of the profile on the local disk."""
    source = next(source for source in profile.evaluation if source.name == name)
    return EvaluationSet(name, Path(local_folder(profile.locate(source.url))))

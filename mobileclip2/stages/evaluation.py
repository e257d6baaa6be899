"""Evaluates a student or teacher on the missing sets. One pass over each image, whatever sets it is in."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mobileclip2 import sidefile
from mobileclip2.contents import local_folder
from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.results import RESULTS, SAMPLES, dumps
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.device import choose_device
from mobileclip2.pipeline import Work
from mobileclip2.profile import Profile
from mobileclip2.remembered import cache_folder
from mobileclip2.teachers.load import load_teacher


def run(work: Work) -> None:
    device = choose_device(work.profile.device)
    model = load_teacher(work.parts[0].only("model"), work.contents)
    model.model.to(device)
    sets = [open_set(work.profile, part.part.name) for part in work.parts]
    kept = cache_folder() / "features" / f"{work.parts[0].only('model').head.data_version}-{device.type}"
    results = evaluate(model, sets, batch=work.profile.batch, device=device, kept=kept, progress=work.progress)
    for part, each, result in zip(work.parts, sets, results, strict=True):
        assert result.samples is not None
        part.output.write(SAMPLES, sidefile.to_bytes(result.samples))
        part.output.write(RESULTS, dumps([replace(result, protocol=each.digest)]).encode())
        part.close([RESULTS, SAMPLES], samples=result.samples.num_rows)


def open_set(profile: Profile, name: str) -> EvaluationSet:
    """An evaluation set of the profile, on the local disk."""
    source = next(source for source in profile.evaluation if source.name == name)
    return EvaluationSet(name, Path(local_folder(profile.locate(source.url))))

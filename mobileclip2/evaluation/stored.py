"""Results that the store has, and those of a baseline wherever it lies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mobileclip2 import sidefile
from mobileclip2.errors import UserError
from mobileclip2.evaluation.results import RESULTS, SAMPLES, Result, loads, read_results
from mobileclip2.pipeline import Pipeline


def stored_results(pipeline: Pipeline, model: str) -> list[Result]:
    """What a model scored on every set, with its samples, in the order of the profile.

    Raises:
        UserError: it is not evaluated yet.
    """
    return [
        replace(result, samples=sidefile.read(read.fetch(SAMPLES)))
        for read in pipeline.read(f"evaluation/{model}")
        for result in loads(read.fetch(RESULTS).read_text(), model)
    ]


def baseline_results(pipeline: Pipeline, baseline: str) -> list[Result]:
    """The results of a model of the profile by its name, or those of a file or folder; its path may start at the profile.

    Raises:
        UserError: there is no such thing, or it cannot be read.
    """
    if f"evaluation/{baseline}" in pipeline.graph:
        return stored_results(pipeline, baseline)
    for path in (Path(baseline), Path(pipeline.profile.locate(baseline))):
        if path.exists():
            return read_results(path)
    raise UserError(
        f"baseline '{baseline}': no student or teacher of the profile, and no file or folder of results; correct the name"
    )

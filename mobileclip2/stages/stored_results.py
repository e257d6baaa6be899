"""Read evaluation results from the store, and those of a baseline from the store, a file or a git revision."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mobileclip2.config.profile import parse
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.evaluation.results import RESULTS, SAMPLES, Result, read_results, with_samples
from mobileclip2.store import Artifact


def stored_results(pipeline: Pipeline, model: str) -> list[Result]:
    """Return the results and samples of a model on every set, in the order of the profile.

    Raises:
        UserError: an evaluation of the model is missing, or its metrics contradict its samples.
    """
    return [
        with_samples(result, artifact.fetch(SAMPLES))
        for artifact in pipeline.read(f"evaluation/{model}")
        for result in _results(artifact)
    ]


def results_so_far(pipeline: Pipeline, model: str) -> list[Result]:
    """Return the results of the finished evaluations of a model, without samples."""
    asset = pipeline.graph[f"evaluation/{model}"]
    finished = [name for name in pipeline.groups(asset) if not pipeline.missing(asset, name)]
    return [result for name in finished for artifact in pipeline.read(asset.key, name) for result in _results(artifact)]


def _results(artifact: Artifact) -> list[Result]:
    return read_results(artifact.fetch(RESULTS))


def baseline_results(pipeline: Pipeline, baseline: str, model: str) -> list[Result]:
    """Return the results with which a model is compared.

    ``baseline`` is tried in this order: another model of the profile, a file or folder of results with a path relative to the
    working directory or the profile, and a git revision. For a revision, the store must contain the evaluation of the model
    that the profile of the revision defines.

    Raises:
        UserError: the baseline does not exist, its evaluation is missing, or it cannot be read.
    """
    if "://" in baseline:  # not repeated, because a URL can contain a password
        raise UserError(
            "baseline: URLs are not supported; give a model, a file or folder of results, or a git revision"
        )
    if f"evaluation/{baseline}" in pipeline.graph:
        return stored_results(pipeline, baseline)
    if path := _results_path(pipeline, baseline):
        return read_results(path)
    earlier, key = pipeline_at(pipeline, baseline), f"evaluation/{model}"
    if earlier is None:
        raise UserError(
            f"baseline '{baseline}': not a student or teacher of the profile, a file or folder of results, or a git revision "
            "with this profile; correct the name"
        )
    if key not in earlier.graph:
        raise UserError(f"baseline '{baseline}': the profile of that revision has no '{model}'; name another baseline")
    if not earlier.is_current(key):
        raise UserError(
            f"baseline '{baseline}': the store has no evaluation of '{model}' as that revision makes it; "
            f"run 'mobileclip2 evaluate --student {model}' there with this store, or pass a folder of its results"
        )
    return stored_results(earlier, model)


def pipeline_at(pipeline: Pipeline, baseline: str) -> Pipeline | None:
    """Return the pipeline of the profile at the git revision ``baseline``, or None if that is no revision with the profile."""
    if f"evaluation/{baseline}" in pipeline.graph or _results_path(pipeline, baseline):
        return None
    file = Path(pipeline.profile.file)
    command = ["git", "show", "--end-of-options", f"{baseline}:./{file.name}"]
    try:
        text = subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return Pipeline(parse(text, origin=file))


def _results_path(pipeline: Pipeline, baseline: str) -> Path | None:
    return next(filter(Path.exists, (Path(baseline), Path(pipeline.profile.locate(baseline)))), None)

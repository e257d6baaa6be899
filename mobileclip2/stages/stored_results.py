"""Results that the store has, and those of a baseline wherever it lies."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from pathlib import Path

from mobileclip2.config.profile import parse
from mobileclip2.data import sidecar as sidefile
from mobileclip2.engine.pipeline import Artifact, Pipeline
from mobileclip2.errors import UserError
from mobileclip2.evaluation.results import RESULTS, SAMPLES, Result, loads, read_results


def stored_results(pipeline: Pipeline, model: str) -> list[Result]:
    """Return the results of a model on every set, with its samples, in the order of the profile.

    Raises:
        UserError: it is not evaluated yet.
    """
    return [
        replace(result, samples=sidefile.read(read.fetch(SAMPLES)))
        for read in pipeline.read(f"evaluation/{model}")
        for result in _results(read)
    ]


def results_so_far(pipeline: Pipeline, model: str) -> list[Result]:
    """Without their samples, of the sets that the model is evaluated on already."""
    asset = pipeline.graph[f"evaluation/{model}"]
    there = [name for name in pipeline.groups(asset) if not pipeline.missing(asset, name)]
    return [result for name in there for read in pipeline.read(asset.key, name) for result in _results(read)]


def _results(read: Artifact) -> list[Result]:
    return loads(read.fetch(RESULTS).read_text(), read.output.key(RESULTS))


def baseline_results(pipeline: Pipeline, baseline: str, model: str) -> list[Result]:
    """Return the results that a model is compared with.

    ``baseline`` is the first of these that there is: another model of the profile; a file or folder of results, whose path
    may start at the profile; a git revision, whose profile makes the same model in another way, as far as the store has that.

    Raises:
        UserError: there is no such thing, it is not evaluated yet, or it cannot be read.
    """
    if f"evaluation/{baseline}" in pipeline.graph:
        return stored_results(pipeline, baseline)
    for path in (Path(baseline), Path(pipeline.profile.locate(baseline))):
        if path.exists():
            return read_results(path)
    text = _at_revision(Path(pipeline.profile.file), baseline)
    if text is None:
        raise UserError(
            f"baseline '{baseline}': no student or teacher of the profile, no file or folder of results, and no git revision "
            "with this profile; correct the name"
        )
    earlier, key = Pipeline(parse(text, origin=Path(pipeline.profile.file))), f"evaluation/{model}"
    if key not in earlier.graph:
        raise UserError(f"baseline '{baseline}': the profile of that revision has no '{model}'; name another baseline")
    asset = earlier.graph[key]
    if any(earlier.missing(asset, name) for name in earlier.groups(asset)):
        raise UserError(
            f"baseline '{baseline}': the store has no evaluation of '{model}' as that revision makes it; "
            f"run 'mobileclip2 evaluate --student {model}' there with this store, or give a folder of its results"
        )
    return stored_results(earlier, model)


def _at_revision(file: Path, revision: str) -> str | None:
    """Return the text of the profile at a git revision, or None if the revision lacks the file."""
    command = ["git", "show", "--end-of-options", f"{revision}:./{file.name}"]
    try:
        return subprocess.run(command, cwd=file.parent, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None

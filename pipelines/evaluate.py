"""``mobileclip2 evaluate``: a model beside its baseline and the published ones, and the gate's verdict."""

from __future__ import annotations

import subprocess
from pathlib import Path

from mobileclip2.errors import UserError
from mobileclip2.evaluation.gate import compare
from mobileclip2.evaluation.results import Result
from mobileclip2.evaluation.stored import baseline_results, stored_results
from mobileclip2.pipeline import Pipeline
from mobileclip2.profile import parse
from mobileclip2.report.comparison import as_markdown, published_like
from mobileclip2.store.storage import atomic_path
from pipelines.run import run

PASSED, FAILED = 0, 3
"""exit statuses of the gate; what the user can mend is 1, a wrong call 2"""


def evaluate(pipeline: Pipeline, file: Path, model: str, baseline: str | None, markdown: Path | None) -> int:
    """Materialises the evaluation of a model of the profile in ``file``, prints the comparison, returns the exit status.

    Raises:
        UserError: the evaluation failed, or the baseline cannot be compared with.
    """
    key = f"evaluation/{model}"
    if key not in pipeline.graph:
        known = [name.partition("/")[2] for name in pipeline.graph if name.startswith("evaluation/")]
        raise UserError(f"--student {model}: the profile evaluates {', '.join(known) or 'nothing'}; correct the name")
    wanted = baseline or pipeline.profile.gate.baseline
    # a baseline that is not to be had is better known before the student has trained
    before = (
        _baseline(pipeline, file, model, wanted) if wanted and f"evaluation/{wanted}" not in pipeline.graph else None
    )
    run(pipeline, [key, *([f"evaluation/{wanted}"] if wanted and before is None else [])])
    if wanted and before is None:
        before = stored_results(pipeline, wanted)
    comparison = compare(stored_results(pipeline, model), before, pipeline.profile.gate)
    text = as_markdown(comparison, model, wanted, published_like(pipeline.profile, model))
    print(text, end="")
    if markdown:
        with atomic_path(markdown) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return FAILED if comparison.failed else PASSED


def _baseline(pipeline: Pipeline, file: Path, model: str, wanted: str) -> list[Result]:
    """The results of a file or folder, else what the store has of the same model as a git revision's profile makes it."""
    try:
        return baseline_results(pipeline, wanted)
    except UserError:
        text = _at_revision(file, wanted)
        if text is None:
            raise
    earlier = Pipeline(parse(text, origin=file))
    key = f"evaluation/{model}"
    if key not in earlier.graph:
        raise UserError(f"--baseline {wanted}: the profile of that revision has no '{model}'; name another baseline")
    if earlier.missing(earlier.graph[key], None):
        raise UserError(
            f"--baseline {wanted}: the store has no evaluation of '{model}' as that revision makes it; "
            f"run 'mobileclip2 evaluate --student {model}' there with this store, or give a folder of its results"
        )
    return stored_results(earlier, model)


def _at_revision(file: Path, revision: str) -> str | None:
    """The profile as a git revision has it; None where there is no such revision of this file."""
    command = ["git", "show", "--end-of-options", f"{revision}:./{file.name}"]
    try:
        shown = subprocess.run(command, cwd=file.resolve().parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return shown.stdout

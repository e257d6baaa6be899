"""``mobileclip2 evaluate``: a model beside its baseline and the published ones, and the gate's verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.evaluation.gate import compare
from mobileclip2.names import did_you_mean
from mobileclip2.report.comparison import as_markdown, published_like
from mobileclip2.stages.stored_results import baseline_results, stored_results
from mobileclip2.store.storage import atomic_path
from pipelines.run import run

PASSED, FAILED = 0, 3
"""exit statuses of the gate; what the user can mend is 1, a wrong call 2"""


@dataclass(frozen=True)
class Judgement:
    """What the gate says of a model."""

    table: str
    """Markdown, with the verdict and its reasons below"""
    failed: bool


def evaluate(pipeline: Pipeline, model: str, baseline: str | None, markdown: Path | None) -> int:
    """Materializes the evaluation of a model, and of a baseline in the same profile; prints them; returns the exit status.

    Raises:
        UserError: the evaluation failed, or the baseline cannot be compared with.
    """
    judgement = judge(pipeline, model, baseline, lambda wanted: run(pipeline, wanted))
    print(judgement.table, end="")
    if markdown:
        with atomic_path(markdown) as temporary:
            temporary.write_text(judgement.table, encoding="utf-8")
    return FAILED if judgement.failed else PASSED


def judge(
    pipeline: Pipeline, model: str, baseline: str | None, materialize: Callable[[list[str]], object]
) -> Judgement:
    """Judge a model by the gate. ``materialize`` computes what some assets lack.

    Raises:
        UserError: as :func:`evaluate`, and what ``materialize`` raises.
    """
    known = [name.partition("/")[2] for name in pipeline.graph if name.startswith("evaluation/")]
    model = model_name(model)
    if model not in known:
        near = did_you_mean(model, known) or f"; the profile evaluates {', '.join(known) or 'nothing'}"
        raise UserError(f"--student {model}: no such model{near}; correct the name")
    key = f"evaluation/{model}"
    baseline = baseline or pipeline.profile.gate.baseline
    if baseline and model_name(baseline) in known:
        baseline = model_name(baseline)
    wanted = [key]
    if f"evaluation/{baseline}" in pipeline.graph:
        wanted.append(f"evaluation/{baseline}")
    elif baseline:
        # one that is not to be had is better known before the student has trained
        baseline_results(pipeline, baseline, model)
    materialize(wanted)
    before = baseline_results(pipeline, baseline, model) if baseline else None
    comparison = compare(stored_results(pipeline, model), before, pipeline.profile.gate)
    table = as_markdown(comparison, model, baseline, published_like(pipeline.profile, model))
    return Judgement(table, bool(comparison.failed))


def model_name(key: str) -> str:
    """``x`` of ``student/x``, ``teacher/x`` and ``evaluation/x``."""
    stage, _, name = key.partition("/")
    return name if stage in {"student", "teacher", "evaluation"} else key

"""``mobileclip2 evaluate``: compare a model with its baseline and the published models, and apply the gate."""

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
from pipelines.run import RunDisplay, run

PASSED, FAILED = 0, 3
"""exit statuses of the gate; 1 is a user error, 2 a usage error"""


@dataclass(frozen=True)
class GateResult:
    """The gate's result for a model."""

    table: str
    """Markdown table, followed by the verdict and its reasons"""
    failed: bool


def evaluate(
    pipeline: Pipeline, model: str, baseline: str | None, markdown: Path | None, display: RunDisplay | None = None
) -> int:
    """Materialize the evaluations of a model and its baseline, print the comparison, and return the exit status.

    Raises:
        UserError: The evaluation failed, or the baseline has no comparable results.
    """
    result = apply_gate(pipeline, model, baseline, lambda keys: run(pipeline, keys, display))
    print(result.table, end="")
    if markdown:
        with atomic_path(markdown) as temporary:
            temporary.write_text(result.table, encoding="utf-8")
    return FAILED if result.failed else PASSED


def apply_gate(
    pipeline: Pipeline, model: str, baseline: str | None, materialize: Callable[[list[str]], object]
) -> GateResult:
    """Apply the gate to a model. ``materialize`` computes the missing slices of the assets with the given keys.

    Raises:
        UserError: As :func:`evaluate`, or raised by ``materialize``.
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
    keys = [key]
    if f"evaluation/{baseline}" in pipeline.graph:
        keys.append(f"evaluation/{baseline}")
    elif baseline:
        # report an unusable baseline before the training, which can take hours
        baseline_results(pipeline, baseline, model)
    materialize(keys)
    reference = baseline_results(pipeline, baseline, model) if baseline else None
    comparison = compare(stored_results(pipeline, model), reference, pipeline.profile.gate)
    table = as_markdown(comparison, model, baseline, published_like(pipeline.profile, model))
    return GateResult(table, bool(comparison.failed))


def model_name(key: str) -> str:
    """Return the model's name: ``x`` for ``student/x``, ``teacher/x`` and ``evaluation/x``."""
    stage, _, name = key.partition("/")
    return name if stage in {"student", "teacher", "evaluation"} else key

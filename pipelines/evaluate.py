"""``mobileclip2 evaluate``: compare a model with its baseline and the published models, and apply the gate."""

from __future__ import annotations

from pathlib import Path

from mobileclip2.asset_key import AssetKey
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan
from mobileclip2.errors import UserError
from mobileclip2.evaluation.gate import compare
from mobileclip2.names import did_you_mean
from mobileclip2.report.changes import changes_as_markdown, data_changes
from mobileclip2.report.comparison import as_markdown, published_like
from mobileclip2.stages.stored_results import baseline_results, pipeline_at, stored_results
from mobileclip2.store.storage import atomic_path
from pipelines.remote import GATE_FAILED, PASSED
from pipelines.run import run
from pipelines.show import plan_as_markdown
from pipelines.supervise import RunDisplay


def evaluate(
    pipeline: Pipeline, model: str, baseline: str | None, markdown: Path | None, display: RunDisplay | None = None
) -> int:
    """Materialize the evaluations of a model and its baseline, print the comparison, and return the exit status.

    Args:
        markdown: A file for the comparison, the data that differ from those of a git revision, and the cost of everything in
            the profile that was not stored before.

    Raises:
        UserError: The evaluation failed, or the baseline has no comparable results.
    """
    chosen = evaluations(pipeline, model, baseline)
    cost = _cost(pipeline) if markdown else ""
    run(pipeline, chosen, display)
    table, has_failed = apply_gate(pipeline, model, baseline)
    print(table, end="")
    if markdown:
        sections = [table, data_section(pipeline, baseline), cost]
        with atomic_path(markdown) as temporary:
            temporary.write_text("\n".join(filter(None, sections)), encoding="utf-8")
    return GATE_FAILED if has_failed else PASSED


def evaluations(pipeline: Pipeline, model: str, baseline: str | None) -> list[str]:
    """Return the keys of the evaluations that the gate compares.

    Raises:
        UserError: There is no such model, or the baseline has no comparable results.
    """
    model, baseline = _names(pipeline, model, baseline)
    keys = [f"evaluation/{model}"]
    if f"evaluation/{baseline}" in pipeline.graph:
        keys.append(f"evaluation/{baseline}")
    elif baseline:
        # report an unusable baseline before the training, which can take hours
        baseline_results(pipeline, baseline, model)
    return keys


def apply_gate(pipeline: Pipeline, model: str, baseline: str | None) -> tuple[str, bool]:
    """Return a Markdown table with the gate's verdict on a model and its reasons, and whether the gate fails.

    Raises:
        UserError: There is no such model, it is not evaluated yet, or the baseline has no comparable results.
    """
    model, baseline = _names(pipeline, model, baseline)
    reference = baseline_results(pipeline, baseline, model) if baseline else None
    comparison = compare(stored_results(pipeline, model), reference, pipeline.profile.gate)
    table = as_markdown(comparison, model, baseline, published_like(pipeline.profile, model))
    return table, bool(comparison.failed)


def _cost(pipeline: Pipeline) -> str:
    try:
        return plan_as_markdown(plan(pipeline))
    except UserError as error:  # an input that this evaluation may not need
        return f"### Cost of what is not stored\n\nNot known: {error}\n"


def data_section(pipeline: Pipeline, baseline: str | None) -> str:
    """Return a Markdown table of the captions that differ from those of a git revision. Empty for another baseline."""
    baseline = baseline or pipeline.profile.gate.baseline
    earlier = pipeline_at(pipeline, baseline) if baseline else None
    if not baseline or not earlier:
        return ""
    try:
        return changes_as_markdown(data_changes(earlier, pipeline), baseline)
    except UserError as error:  # the verdict on the model does not depend on it
        return f"### Data, compared with {baseline}\n\nNot compared: {error}\n"


def _names(pipeline: Pipeline, model: str, baseline: str | None) -> tuple[str, str | None]:
    known = [asset.name for asset in pipeline.graph.values() if asset.stage == "evaluation"]
    model = model_name(model)
    if model not in known:
        near = (
            did_you_mean(model, known) or f"; the profile evaluates {', '.join(known) or 'nothing'}; correct the name"
        )
        raise UserError(f"--student {model}: no such model{near}")
    baseline = baseline or pipeline.profile.gate.baseline
    return model, model_name(baseline) if baseline and model_name(baseline) in known else baseline


def model_name(key: str) -> str:
    """Return the model's name: ``x`` for ``student/x``, ``teacher/x`` and ``evaluation/x``."""
    match AssetKey(key).path:
        case ("student" | "teacher" | "evaluation", name):
            return name
    return key

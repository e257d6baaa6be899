"""The report of a pipeline: results, trainings, studies, samples, skipped samples and lineage of all artifacts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from mobileclip2.evaluation.results import MAIN_METRIC
from mobileclip2.evaluation.wise_ft import Point
from mobileclip2.report import plots
from mobileclip2.report.gallery import Gallery
from mobileclip2.report.page import (
    EvaluatedModel,
    Tile,
    Training,
    accuracy_plots,
    bar,
    duration,
    loss_plots,
    render,
)
from mobileclip2.report.pictures import SampleRow
from mobileclip2.report.study import StudyResult, figures, table
from mobileclip2.store.manifest import ManifestSummary

if TYPE_CHECKING:
    from mobileclip2.report.filtering import FilterReport, SelectionReport

METRICS = {
    "acc1": "top-1",
    "acc5": "top-5",
    "image_retrieval_recall@1": "text → image recall@1",
    "image_retrieval_recall@5": "text → image recall@5",
    "text_retrieval_recall@1": "image → text recall@1",
    "text_retrieval_recall@5": "image → text recall@5",
}
"""metrics of the headline table, in its order; a set without any of them shows its main metric"""
SECTIONS = {
    "results": "Results",
    "gallery": "Gallery",
    "training": "Training",
    "studies": "Studies",
    "between": "Interpolated weights",
    "filtering": "Filtering",
    "samples": "Samples",
    "skipped": "Skipped",
    "stages": "Stages",
    "profile": "Profile",
}
MOST_SKIPS = 200
REMOVED = {
    "low-score": "removed: score below the cut",
    "in-evaluation-set": "removed: the image is in an evaluation set",
    "near-duplicate": "removed: near duplicate of a kept image",
}
"""rows of the table of the selection, by reason; each is shown, also with no pair"""


@dataclass(frozen=True)
class Curve:
    """An interpolated student: the points of its curve, and the picked weight."""

    name: str
    points: Sequence[Point]
    picked: float


class Skip(NamedTuple):
    """A skipped sample."""

    stage: str
    shard: str
    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Stage:
    """An asset with the manifests of its outputs. ``seconds`` is their total time, or None if it is unknown."""

    asset: str
    outputs: Sequence[ManifestSummary]
    description: str = ""
    code_version: str = ""
    upstream: Sequence[str] = ()
    seconds: float | None = None


@dataclass(frozen=True)
class Report:
    """Contents of the report. Empty sections are not shown.

    ``profile`` is the profile's YAML text, ``created`` a date, ``software`` name -> version. ``skips`` can be a
    selection, because the counts come from the outputs' skip reasons.
    """

    title: str
    profile_name: str
    created: str
    models: Sequence[EvaluatedModel] = ()
    gallery: Gallery | None = None
    highlights: Sequence[Tile] = ()
    trainings: Sequence[Training] = ()
    studies: Sequence[StudyResult] = ()
    curves: Sequence[Curve] = ()
    filters: Sequence[FilterReport] = ()
    selection: SelectionReport | None = None
    samples: Sequence[SampleRow] = ()
    skips: Sequence[Skip] = ()
    stages: Sequence[Stage] = ()
    profile: str = ""
    software: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class MetricRow:
    """A row of the headline table: a value or None for each model. ``best`` marks the best teacher and student."""

    set: str
    metric: str
    values: Sequence[float | None]
    best: Sequence[bool]
    first: int
    """number of the set's rows in its first row, else 0"""


def render_pipeline(report: Report) -> str:
    """Render the page."""
    by_model = {model.name: model.results for model in report.models}
    teachers = [model.name for model in report.models if model.kind == "teacher"]
    return render(
        "pipeline.html.j2",
        SECTIONS,
        title=report.title,
        subtitle=f"Profile {report.profile_name} · {report.created}",
        tiles=report.highlights,
        software=report.software,
        report=report,
        table=metric_rows(report.models),
        metric_plot=plots.svg(plots.metric_figure(by_model, reference=teachers), "metrics"),
        accuracies=accuracy_plots(report.trainings, report.models),
        losses=loss_plots(report.trainings),
        study_tables=[_study(number, study) for number, study in enumerate(report.studies)],
        betweens=[
            (curve.name, plots.svg(plots.between_figure(curve.points, curve.picked), f"between-{number}"))
            for number, curve in enumerate(report.curves)
        ],
        histograms=[
            plots.svg(plots.score_figure(each.counts, each.cut), f"scores-{number}")
            for number, each in enumerate(report.filters)
        ],
        selection_rows=_selection_rows(report.selection) if report.selection else [],
        reasons=_skip_reasons(report.stages),
        most_skips=MOST_SKIPS,
        stage_rows=_stage_rows(report.stages),
        outputs=[
            [
                (each.part, each.group or "–", f"{each.samples:,}", each.fingerprint, each.data_version)
                for each in stage.outputs
            ]
            for stage in report.stages
        ],
    )


def metric_rows(models: Sequence[EvaluatedModel]) -> list[MetricRow]:
    """Return the rows of the headline table, by set in order of first appearance."""
    keys = dict.fromkeys(result.key for model in models for result in model.results)
    by_model = [{result.key: result.metrics for result in model.results} for model in models]
    rows = []
    for key in keys:
        present = {name for metrics in by_model for name in metrics.get(key, {})}
        names = [name for name in METRICS if name in present] or [MAIN_METRIC]
        for number, name in enumerate(names):
            values = [metrics.get(key, {}).get(name) for metrics in by_model]
            label = METRICS.get(name, "main metric")
            rows.append(MetricRow(key, label, values, _best(models, values), 0 if number else len(names)))
    return rows


def _best(models: Sequence[EvaluatedModel], values: Sequence[float | None]) -> list[bool]:
    best = []
    for model, value in zip(models, values, strict=True):
        rivals = [v for m, v in zip(models, values, strict=True) if m.kind == model.kind and v is not None]
        best.append(value is not None and len(rivals) > 1 and value == max(rivals) > min(rivals))
    return best


def _study(position: int, study: StudyResult) -> tuple[str, dict[str, str], list[list[str]], list[str]]:
    """Return name, columns, rows and figures of a study."""
    (name, *headings), *rows = table(study)
    svgs = [plots.svg(figure, f"study-{position}-{number}") for number, figure in enumerate(figures(study))]
    return name, {"": "head", **dict.fromkeys(headings, "number")}, rows, svgs


def _selection_rows(selection: SelectionReport) -> list[tuple[str, str, float]]:
    """Return (pairs, number, share of all pairs): the kept pairs, then the removed ones by reason."""
    rows = {"kept": selection.kept, **{label: selection.removed.get(reason, 0) for reason, label in REMOVED.items()}}
    return [(label, f"{count:,}", count / selection.pairs) for label, count in rows.items()]


def _skip_reasons(stages: Sequence[Stage]) -> list[tuple[str, str, str]]:
    """Return (asset, reason, count) in order of frequency within each asset."""
    return [
        (stage.asset, reason, f"{count:,}")
        for stage in stages
        for reason, count in sum((Counter(each.skip_reasons) for each in stage.outputs), Counter[str]()).most_common()
    ]


def _stage_rows(stages: Sequence[Stage]) -> list[tuple[str, ...]]:
    """Return asset, number of outputs, samples, skipped samples, time and a bar of the time for each stage."""
    longest = max((stage.seconds or 0 for stage in stages), default=0)
    return [
        (
            stage.asset,
            str(len(stage.outputs)),
            f"{sum(output.samples for output in stage.outputs):,}",
            f"{sum(sum(output.skip_reasons.values()) for output in stage.outputs):,}",
            duration(stage.seconds),
            bar(stage.seconds / longest) if stage.seconds else "",
        )
        for stage in stages
    ]

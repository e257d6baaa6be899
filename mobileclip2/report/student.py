"""The report of one student: results, latency and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS
from mobileclip2.evaluation.bootstrap import RESAMPLES
from mobileclip2.evaluation.gate import AVERAGED, ComparisonRow
from mobileclip2.evaluation.latency import Latency
from mobileclip2.evaluation.metrics import RECALLS
from mobileclip2.evaluation.published import MODELS, NUMBERS
from mobileclip2.evaluation.results import MAIN_METRIC
from mobileclip2.report import plots
from mobileclip2.report.examples import Association, Classified, Confusion, Retrieved, Share
from mobileclip2.report.gallery import Gallery
from mobileclip2.report.page import EvaluatedModel, Tile, Training, accuracy_plots, loss_plots, render

SECTIONS = {
    "results": "Results",
    "published": "Comparison with the published models",
    "latency": "Latency and size",
    "training": "Training",
    "side_by_side": "Gallery",
    "examples": "Examples",
}
AVERAGE_NAMES = {
    "average": "Average of the 38 sets",
    "imagenet_shift": "ImageNet shifts",
    "vtab": "VTAB",
    "retrieval": "Retrieval",
}
METRIC_NAMES = {
    "acc1": "top-1",
    "acc5": "top-5",
    "mean_per_class_recall": "mean per-class recall",
    "mean_recall@1": "mean recall@1",
    **{f"image_retrieval_recall@{k}": f"text → image recall@{k}" for k in RECALLS},
    **{f"text_retrieval_recall@{k}": f"image → text recall@{k}" for k in RECALLS},
}
"""names of metrics in the table of tasks, in their order; the main metric is always shown"""


@dataclass(frozen=True)
class SetExamples:
    """Examples of one evaluation set. Fields that its kind does not have are empty."""

    name: str
    samples: int
    failures: Sequence[Classified] = ()
    successes: Sequence[Classified] = ()
    wrong: int = 0
    confusions: Sequence[Confusion] = ()
    classnames: Sequence[str] = ()
    matrix: np.ndarray | None = None
    """shares ``[classes, classes]``, or None if there are too many classes"""
    retrieved: Sequence[Retrieved] = ()
    associations: Sequence[Association] = ()
    splits: Mapping[str, Sequence[Share]] = field(default_factory=dict)
    """shares of each group by metric"""


@dataclass(frozen=True)
class StudentReport:
    """Contents of a student's report.

    ``rows`` have intervals at ``confidence``. ``latencies`` has this student and the other students of the profile, measured on
    one machine. ``mains`` has their main metrics on ``axis``, which is a set or an average.
    """

    name: str
    profile_name: str
    created: str
    note: str
    samples_seen: int | None
    rows: Sequence[ComparisonRow]
    confidence: float
    latencies: Mapping[str, Latency]
    axis: str
    mains: Mapping[str, float]
    training: Training
    teachers: Sequence[EvaluatedModel] = ()
    gallery: Gallery | None = None
    sets: Sequence[SetExamples] = ()
    software: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class PublishedRow:
    """A row of the table of published models: millions of parameters, and shares in the order of :data:`NUMBERS`."""

    name: str
    parameters: tuple[float, float]
    shares: Sequence[float | None]
    is_own: bool = False


def render_student(report: StudentReport) -> str:
    """Render the page."""
    averages = [row for row in report.rows if row.metric == AVERAGED]
    metrics = [row for row in report.rows if row.metric != AVERAGED]
    return render(
        "student.html.j2",
        SECTIONS,
        title=f"{report.name} · MobileCLIP2 student",
        subtitle=f"Profile {report.profile_name} · {report.note} · {report.created}",
        tiles=_tiles(report, [*averages, *metrics]),
        software=report.software,
        report=report,
        own_latency=report.latencies[report.name],
        by_set={key: [row for row in metrics if row.set == key] for key in dict.fromkeys(row.set for row in metrics)},
        set_names={key: task.name for key, task in TASKS.items()},
        metric_names=METRIC_NAMES,
        averages=averages,
        average_names=AVERAGE_NAMES,
        average_sets=AVERAGES,
        missing_averages=[name for key, name in AVERAGE_NAMES.items() if key not in {row.set for row in averages}],
        published_rows=published_rows(report),
        resamples=RESAMPLES,
        tradeoffs=_tradeoffs(report),
        accuracies=accuracy_plots([report.training], report.teachers),
        losses=loss_plots([report.training] if report.training.records else []),
        matrices=[
            plots.svg(plots.matrix_figure(each.matrix, each.classnames), f"confusion-{number}")
            if each.matrix is not None
            else ""
            for number, each in enumerate(report.sets)
        ],
    )


def _tiles(report: StudentReport, rows: Sequence[ComparisonRow]) -> list[Tile]:
    latency = report.latencies[report.name]
    image, text = latency.image, latency.text
    tiles = [
        Tile(
            AVERAGE_NAMES.get(row.set, row.set),
            f"{plots.percent(row.value)} %",
            f"{100 * report.confidence:.0f} % interval {plots.percent(row.interval[0])} – {plots.percent(row.interval[1])}",
        )
        for row in rows[:1]
    ]
    tiles += [
        Tile("Latency, image + text", f"{image.p50:.2f} + {text.p50:.2f} ms", f"one at a time, on {latency.machine}"),
        Tile(
            "Parameters, image + text",
            f"{plots.count(image.parameters)} + {plots.count(text.parameters)}",
            "as served: reparameterized",
        ),
    ]
    if report.samples_seen is not None:
        tiles.append(Tile("Samples seen", plots.count(report.samples_seen), report.note))
    return tiles


def published_rows(report: StudentReport) -> list[PublishedRow]:
    """Return this student and the released models with the published metrics."""
    own = {(row.set, MAIN_METRIC if row.metric == AVERAGED else row.metric): row.value for row in report.rows}
    latency = report.latencies[report.name]
    parameters = latency.image.parameters / 1e6, latency.text.parameters / 1e6
    return [
        PublishedRow(report.name, parameters, [own.get(number) for number in NUMBERS], is_own=True),
        *(PublishedRow(model.name, model.parameters, [*model.shares.values()]) for model in MODELS.values()),
    ]


def _tradeoffs(report: StudentReport) -> list[tuple[str, str]]:
    """Return (caption, figure) of accuracy over latency: this profile's students, and the released models as published."""
    ours = {
        name: plots.Tradeoff(
            latency.milliseconds, report.mains[name], latency.image.parameters + latency.text.parameters
        )
        for name, latency in report.latencies.items()
        if name in report.mains
    }
    published = next((number for number in NUMBERS if number[0] == report.axis), ("average", MAIN_METRIC))
    theirs = {
        model.name.removeprefix("MobileCLIP2-"): plots.Tradeoff(
            sum(model.latency), model.shares[published], int(1e6 * sum(model.parameters))
        )
        for model in MODELS.values()
    }
    machine = report.latencies[report.name].machine
    panels = [
        (f"This profile's students on this machine: {machine}.", ours, report.axis, report.name),
        ("The released MobileCLIP2 models on an iPhone 12 Pro Max, as published.", theirs, published[0], None),
    ]
    return [
        (
            caption,
            plots.svg(
                plots.tradeoff_figure(points, title=AVERAGE_NAMES.get(axis, axis), highlight=highlight),
                f"tradeoff-{number}",
            ),
        )
        for number, (caption, points, axis, highlight) in enumerate(panels)
        if points
    ]

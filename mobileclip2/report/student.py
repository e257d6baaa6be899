"""The report of one student as one HTML file: results, latency and examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS
from mobileclip2.evaluation.bootstrap import RESAMPLES
from mobileclip2.evaluation.gate import AVERAGED, Row
from mobileclip2.evaluation.latency import Latency
from mobileclip2.evaluation.metrics import RECALLS
from mobileclip2.evaluation.published import MODELS, NUMBERS
from mobileclip2.report import plots
from mobileclip2.report.examples import Association, Classified, Confusion, Retrieved, Split
from mobileclip2.report.html import EvaluatedModel, Training, accuracy_plots, loss_plots, render

PUBLISHED_ON = "iPhone 12 Pro Max"
FAMILY = "MobileCLIP2-"
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

    key: str
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
    splits: Sequence[Split] = ()


@dataclass(frozen=True)
class StudentReport:
    """Contents of a student's report.

    ``rows`` have intervals at ``confidence``. ``latencies`` has this student and the other students of the profile, measured on
    one machine. ``mains`` has their main metrics on ``axis``, which is a set or an average.
    """

    title: str
    name: str
    profile_name: str
    created: str
    note: str
    samples_seen: int | None
    rows: Sequence[Row]
    confidence: float
    latencies: Mapping[str, Latency]
    axis: str
    mains: Mapping[str, float]
    training: Training
    teachers: Sequence[EvaluatedModel] = ()
    sets: Sequence[SetExamples] = ()
    software: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Line:
    """A row of the table of tasks. ``first`` is as in :class:`~mobileclip2.report.html.MetricRow`."""

    set: str
    name: str
    row: Row
    metric: str
    main: bool
    first: int


@dataclass(frozen=True)
class Beside:
    """A row of the table of published models: millions of parameters, and shares in the order of :data:`NUMBERS`."""

    name: str
    parameters: tuple[float, float]
    shares: Sequence[float | None]
    own: bool = False


def render_student(report: StudentReport) -> str:
    """Render the page. All text in it is escaped."""
    matrices = [
        ""
        if each.matrix is None
        else plots.svg(plots.matrix_figure(each.matrix, each.classnames), f"confusion-{number}")
        for number, each in enumerate(report.sets)
    ]
    averages = [row for row in report.rows if row.metric == AVERAGED]
    return render(
        "student.html.j2",
        report=report,
        latency=report.latencies[report.name],
        headline=(averages or report.rows)[0] if report.rows else None,
        lines=lines([row for row in report.rows if row.metric != AVERAGED]),
        averages=[(AVERAGE_NAMES[row.set], len(AVERAGES[row.set]), row) for row in averages],
        average_names=AVERAGE_NAMES,
        beside=beside_published(report),
        published_on=PUBLISHED_ON,
        axis=AVERAGE_NAMES.get(report.axis, report.axis),
        resamples=RESAMPLES,
        tradeoffs=_tradeoffs(report),
        accuracies=accuracy_plots([report.training], report.teachers),
        losses=loss_plots([report.training] if report.training.records else []),
        matrices=matrices,
    )


def lines(rows: Sequence[Row]) -> list[Line]:
    """Return the rows of the table of tasks. The rows of a set are together, with its main metric first."""
    table = []
    for key in dict.fromkeys(row.set for row in rows):
        of_set = [row for row in rows if row.set == key]
        task = TASKS.get(key)
        table += [
            Line(
                key,
                task.name if task else key,
                row,
                METRIC_NAMES.get(row.metric, row.metric),
                number == 0,
                0 if number else len(of_set),
            )
            for number, row in enumerate(of_set)
        ]
    return table


def beside_published(report: StudentReport) -> list[Beside]:
    """Return this student and the released models with the published metrics."""
    own = {(row.set, "main_metric" if row.metric == AVERAGED else row.metric): row.value for row in report.rows}
    latency = report.latencies[report.name]
    parameters = latency.image.parameters / 1e6, latency.text.parameters / 1e6
    return [
        Beside(report.name, parameters, [own.get(number) for number in NUMBERS], own=True),
        *(
            Beside(model.name, model.parameters, [model.shares[number] for number in NUMBERS])
            for model in MODELS.values()
        ),
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
    axis = report.axis if (report.axis, "main_metric") in NUMBERS or report.axis == "imagenet1k" else "average"
    column = NUMBERS.index((axis, "acc1" if axis == "imagenet1k" else "main_metric"))
    theirs = {
        model.name.removeprefix(FAMILY): plots.Tradeoff(
            sum(model.latency), model.percent[column] / 100, int(1e6 * sum(model.parameters))
        )
        for model in MODELS.values()
    }
    machine = report.latencies[report.name].machine
    panels = [
        (f"This profile's students on this machine: {machine}.", ours, report.axis, report.name),
        (f"The released MobileCLIP2 models on an {PUBLISHED_ON}, as published.", theirs, axis, None),
    ]
    return [
        (
            caption,
            plots.svg(
                plots.tradeoff_figure(points, title=AVERAGE_NAMES.get(panel_axis, panel_axis), highlight=highlight),
                f"tradeoff-{number}",
            ),
        )
        for number, (caption, points, panel_axis, highlight) in enumerate(panels)
        if points
    ]

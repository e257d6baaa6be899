"""The report of a pipeline as one HTML file without network requests."""

from __future__ import annotations

import base64
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from PIL import Image

from mobileclip2.evaluation.results import MAIN_METRIC, MetricName, Result
from mobileclip2.evaluation.wise_ft import Point
from mobileclip2.extras import needs
from mobileclip2.report import plots
from mobileclip2.report.pictures import SampleRow
from mobileclip2.report.study import Found, figures, table
from mobileclip2.store.storage import atomic_path

with needs("report"):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

METRICS = {
    "acc1": "top-1",
    "acc5": "top-5",
    "image_retrieval_recall@1": "text → image recall@1",
    "image_retrieval_recall@5": "text → image recall@5",
    "text_retrieval_recall@1": "image → text recall@1",
    "text_retrieval_recall@5": "image → text recall@5",
}
"""metrics of the headline table, in its order; a set without any of them shows its main metric"""
CURVES = ("/acc1", "/mean_recall@1")
"""suffixes of the metrics that are drawn over samples seen"""
MOST_SKIPS = 200


@dataclass(frozen=True)
class EvaluatedModel:
    """A model of the headline table. ``note`` describes its origin in a few words."""

    name: str
    kind: Literal["teacher", "student"]
    results: Sequence[Result]
    note: str = ""
    parameters: int | None = None
    samples_seen: int | None = None


@dataclass(frozen=True)
class Training:
    """Records of a training's ``metrics.jsonl``. ``batch`` is the number of samples in a step."""

    name: str
    records: Sequence[plots.Record]
    batch: int


@dataclass(frozen=True)
class Curve:
    """An interpolated student: the points of its curve, and the picked weight."""

    name: str
    points: Sequence[Point]
    picked: float


@dataclass(frozen=True)
class Skip:
    """A skipped sample."""

    stage: str
    shard: str
    key: str
    reason: str
    detail: str = ""


@dataclass(frozen=True)
class Output:
    """The output of an asset for one slice and group, from its manifest."""

    part: str
    group: str | None
    fingerprint: str
    data_version: str
    samples: int
    skip_reasons: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Stage:
    """An asset with all its outputs. ``seconds`` is their total time, or None if it is unknown."""

    asset: str
    outputs: Sequence[Output]
    description: str = ""
    code_version: str = ""
    upstream: Sequence[str] = ()
    seconds: float | None = None

    @property
    def samples(self) -> int:
        """Return the number of samples in all outputs."""
        return sum(output.samples for output in self.outputs)

    @property
    def skipped(self) -> int:
        """Return the number of skipped samples in all outputs."""
        return sum(sum(output.skip_reasons.values()) for output in self.outputs)


@dataclass(frozen=True)
class Highlight:
    """A number at the top of the page: ``Highlight("more top-1 on emoji-861", "+7.9 points", "47.1 % against 39.2 %")``."""

    label: str
    value: str
    note: str = ""


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
    highlights: Sequence[Highlight] = ()
    trainings: Sequence[Training] = ()
    studies: Sequence[Found] = ()
    curves: Sequence[Curve] = ()
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


def render_html(report: Report) -> str:
    """Render the page. All text is escaped, because captions come from the web."""
    return render(
        "report.html.j2",
        report=report,
        table=metric_rows(report.models),
        metric_plot=_metric_plot(report.models),
        accuracies=accuracy_plots(report.trainings, report.models),
        losses=loss_plots(report.trainings),
        studies=_studies(report.studies),
        betweens=[
            (each.name, plots.svg(plots.between_figure(each.points, each.picked), f"between-{number}"))
            for number, each in enumerate(report.curves)
        ],
        reasons=skip_reasons(report.stages),
        most_skips=MOST_SKIPS,
        longest=max((stage.seconds or 0 for stage in report.stages), default=0),
    )


def render(template: str, **values: object) -> str:
    """Render a template of this folder with the common style."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(data_uri=data_uri, duration=duration, percent=percent, svg=Markup, magnitude=plots.count)
    style = Markup((here / "report.css").read_text(encoding="utf-8"))
    return environment.get_template(template).render(style=style, **values)


def write_html(report: Report, path: Path) -> None:
    """Write the report atomically."""
    write_page(render_html(report), path)


def write_page(page: str, path: Path) -> None:
    """Write a page as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


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


def _metric_plot(models: Sequence[EvaluatedModel]) -> str:
    results = {model.name: model.results for model in models}
    if not any(results.values()):
        return ""
    teachers = [model.name for model in models if model.kind == "teacher"]
    return plots.svg(plots.metric_figure(results, reference=teachers), "metrics")


def accuracy_plots(trainings: Sequence[Training], models: Sequence[EvaluatedModel]) -> list[str]:
    """Draw one figure for each set and metric with all trainings. Horizontal lines show the teachers."""
    names = dict.fromkeys(
        name for training in trainings for record in training.records for name in record if name.endswith(CURVES)
    )
    figures = []
    for number, name in enumerate(names):
        key, metric = MetricName.parse(name)
        curves = {
            training.name: [(r["step"] * training.batch, r[name]) for r in training.records if name in r]
            for training in trainings
            if any(name in record for record in training.records)
        }
        levels = {
            model.name: value
            for model in models
            for result in model.results
            if model.kind == "teacher" and result.key == key and (value := result.metrics.get(metric)) is not None
        }
        figure = plots.accuracy_figure(curves, title=f"{key}  ·  {metric}", levels=levels)
        figures.append(plots.svg(figure, f"accuracy-{number}"))
    return figures


def loss_plots(trainings: Sequence[Training]) -> list[tuple[str, str]]:
    """Draw one figure for each training, because losses of different objectives are not comparable."""
    return [
        (training.name, plots.svg(plots.loss_figure({"": training.records}), f"loss-{number}"))
        for number, training in enumerate(trainings)
    ]


def _studies(studies: Sequence[Found]) -> list[tuple[list[list[str]], list[str]]]:
    """Return the table and the figures of each study."""
    return [
        (table(each), [plots.svg(figure, f"study-{at}-{number}") for number, figure in enumerate(figures(each))])
        for at, each in enumerate(studies)
    ]


def skip_reasons(stages: Sequence[Stage]) -> list[tuple[str, str, int]]:
    """Return (asset, reason, count) in order of frequency within each asset."""
    rows = []
    for stage in stages:
        counts: Counter[str] = Counter()
        for output in stage.outputs:
            counts.update(output.skip_reasons)
        rows += [(stage.asset, reason, count) for reason, count in counts.most_common()]
    return rows


def data_uri(image: Image.Image, side: int = 192) -> str:
    """Return the image as a ``data:`` URI, with at most ``side`` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="webp", quality=82, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def duration(seconds: float | None) -> str:
    """Format seconds for people: ``3.2 s``, ``4 min 5 s``, ``2 h 7 min``."""
    if seconds is None:
        return "–"
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def percent(share: float | None) -> str:
    """Format a share between 0 and 1 as percent with one decimal, without the sign."""
    return "–" if share is None else f"{100 * share:.1f}"

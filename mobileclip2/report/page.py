"""Build a report as one HTML file without network requests. A page has a header with tiles, and sections."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from PIL import Image

from mobileclip2.evaluation.results import MetricName, Result
from mobileclip2.extras import needs
from mobileclip2.report import plots
from mobileclip2.store.storage import atomic_path

with needs("report"):
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

CURVES = ("/acc1", "/mean_recall@1")
"""suffixes of the metrics that are drawn over samples seen"""


@dataclass(frozen=True)
class Tile:
    """A number at the top of a page: ``Tile("more top-1 on emoji-861", "+7.9 points", "47.1 % against 39.2 %")``."""

    label: str
    value: str
    note: str = ""


@dataclass(frozen=True)
class EvaluatedModel:
    """A model with its results. ``note`` describes its origin in a few words."""

    name: str
    kind: Literal["teacher", "student"]
    results: Sequence[Result]
    note: str = ""
    samples_seen: int | None = None


@dataclass(frozen=True)
class Training:
    """Records of a training's ``metrics.jsonl``. ``batch`` is the number of samples in a step."""

    name: str
    records: Sequence[plots.Record]
    batch: int


def render(
    template: str,
    sections: Mapping[str, str],
    *,
    title: str,
    subtitle: str,
    tiles: Sequence[Tile],
    software: Mapping[str, str],
    **values: object,
) -> str:
    """Render a page. Text is escaped, because captions come from the web.

    ``template`` has a macro for each section, and ``sections`` maps the names of the macros to titles. ``values`` are the
    variables of the template. Empty sections are omitted.
    """
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        bar=bar, data_uri=data_uri, magnitude=plots.count, number="{:,}".format, percent=plots.percent, svg=Markup
    )
    module = environment.get_template(template).make_module(values)
    bodies = {name: getattr(module, name)().strip() for name in sections}
    return environment.get_template("page.html.j2").render(
        style=Markup((here / "page.css").read_text(encoding="utf-8")),
        title=title,
        subtitle=subtitle,
        tiles=tiles,
        sections=[(name, sections[name], body) for name, body in bodies.items() if body],
        software=software,
    )


def write_page(page: str, path: Path) -> None:
    """Write a page as UTF-8, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def accuracy_plots(trainings: Sequence[Training], models: Sequence[EvaluatedModel]) -> list[str]:
    """Draw one figure for each set and metric with all trainings. Horizontal lines show the teachers."""
    names = dict.fromkeys(
        name for training in trainings for record in training.records for name in record if name.endswith(CURVES)
    )
    figures = []
    for number, name in enumerate(names):
        key, metric = MetricName.parse(name)
        curves = {
            training.name: points
            for training in trainings
            if (points := [(r["step"] * training.batch, r[name]) for r in training.records if name in r])
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
        (training.name, plots.svg(plots.loss_figure(training.records), f"loss-{number}"))
        for number, training in enumerate(trainings)
    ]


def data_uri(image: Image.Image, side: int = 192) -> str:
    """Return the image as a ``data:`` URI, with at most ``side`` pixels a side."""
    small = image.convert("RGB")
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="webp", quality=82, method=6)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def bar(share: float) -> Markup:
    """Return a horizontal bar whose length is a share between 0 and 1."""
    return Markup('<span class="bar"><i style="width: {:.1f}%"></i></span>').format(100 * share)


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

"""Line and bar charts as matplotlib figures, which are saved as PNG or as SVG with the page's theme."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import numpy as np
from PIL import Image

from mobileclip2.evaluation import wise_ft
from mobileclip2.evaluation.results import MAIN_METRIC, Result, main_name
from mobileclip2.extras import needs
from mobileclip2.report.palette import GRID, INK, MUTED, NEUTRAL, PAPER, VARIABLES, series

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Record = Mapping[str, float]
"""line of a training's ``metrics.jsonl``"""
Point = tuple[float, float]


@dataclass(frozen=True)
class Tradeoff:
    """Latency, accuracy and size of a model. ``share`` is the accuracy between 0 and 1."""

    milliseconds: float
    share: float
    parameters: int


_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": INK,
    "text.parse_math": False,  # names and captions are not formulas
    "axes.edgecolor": GRID,
    "axes.labelcolor": MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.titlesize": 10,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "svg.fonttype": "none",
    "svg.hashsalt": "mobileclip2",  # makes the bytes of a figure deterministic
}
_SCORE_BARS = 50
"""maximum number of bars of a histogram"""
_LABEL_GAP = 12.0
"""distance between labels at the ends of lines, in points"""

P = ParamSpec("P")
R = TypeVar("R")


def _styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Apply the common style to a function. matplotlib is imported on the first call."""

    @wraps(draw)
    def styled(*args: P.args, **kwargs: P.kwargs) -> R:
        with needs("report"):
            import matplotlib

        with matplotlib.rc_context(_STYLE):
            return draw(*args, **kwargs)

    return styled


@_styled
def loss_figure(records: Sequence[Record], name: str = "") -> Figure:
    """Draw the loss of a training over its steps: faint for every step, strong for the running mean."""
    figure, axes = _figure(4.8, 2.4)
    axes.set(title="loss", xlabel="step")
    points = _thin([(r["step"], r["loss"]) for r in records if math.isfinite(r.get("loss", math.nan))])
    if points:
        steps, values = zip(*points, strict=True)
        smooth = _running_mean(values, max(1, len(values) // 25))
        axes.plot(steps, values, color=series(0), alpha=0.28, linewidth=0.8)
        axes.plot(steps, smooth, color=series(0), linewidth=1.8)
        _label_ends(axes, {name: smooth[-1]}, "{:.3g}")
    return figure


@_styled
def accuracy_figure(curves: Mapping[str, Sequence[Point]], *, title: str, levels: Mapping[str, float]) -> Figure:
    """Draw shares between 0 and 1 over samples seen. ``levels`` are horizontal lines, such as the teachers'."""
    figure, axes = _figure(6.4, 3.2)
    ends = _draw_lines(axes, curves)
    for name, level in levels.items():
        axes.axhline(100 * level, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        ends[name] = 100 * level
    axes.set(title=title, xlabel="samples seen", xlim=(0, None), ylim=(0, None))
    axes.xaxis.set_major_formatter(lambda value, _: count(value))
    axes.yaxis.set_major_formatter("{x:.0f} %")
    _label_ends(axes, ends, "{:.1f} %", muted=levels)
    return figure


@_styled
def between_figure(curve: Sequence[wise_ft.Point], picked: float) -> Figure:
    """Draw the main metric of every set over the weight of the tuned model, and the picked weight."""
    figure, axes = _figure(6.4, 3.2)
    ends = _draw_lines(axes, {name: [(point.weight, point.main(name)) for point in curve] for name in curve[0].metrics})
    axes.axvline(picked, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
    axes.set(title=f"main metric  ·  picked {picked:g}", xlabel="weight of the tuned model", xlim=(0, 1))
    axes.yaxis.set_major_formatter("{x:.0f} %")
    _label_ends(axes, ends, "{:.1f} %")
    return figure


@_styled
def metric_figure(models: Mapping[str, Sequence[Result]], *, reference: Collection[str] = ()) -> Figure:
    """Draw a labeled bar of the main metric for each model on each set. Models of ``reference`` are gray."""
    colors = dict.fromkeys(reference, NEUTRAL)
    for index, model in enumerate(model for model in models if model not in reference):
        colors[model] = series(index)
    bars: dict[str, dict[str, float]] = {}
    names: dict[str, str] = {}
    for model, results in models.items():
        for result in results:
            percent = bars.setdefault(result.key, {})
            if result.main is not None:
                percent[model] = 100 * result.main
                names[result.key] = main_name(result.key, result.metrics) or MAIN_METRIC
    rows = sum(len(percent) + 1.1 for percent in bars.values())
    figure, axes = _figure(6.4, 0.35 + 0.21 * max(rows, 2))
    y, ticks, labels = 0.0, [], []
    for key, percent in bars.items():
        axes.text(0, y, f"{key}  ·  {names.get(key, 'not defined')}", fontweight="bold", va="center", ha="left")
        y += 1
        for model, value in percent.items():
            axes.barh(y, value, height=0.74, color=colors[model])
            axes.annotate(f"{value:.1f} %", (value, y), (4, 0), textcoords="offset points", va="center")
            ticks.append(y)
            labels.append(model)
            y += 1
        y += 0.1
    axes.set_yticks(ticks, labels)
    axes.tick_params(axis="y", labelcolor=INK)
    highest = max((value for percent in bars.values() for value in percent.values()), default=1)
    axes.set(ylim=(max(y, 1) - 0.4, -0.6), xlim=(0, max(highest, 1) * 1.12), xticks=[])
    axes.grid(False)
    axes.spines["bottom"].set_visible(False)
    return figure


@_styled
def trial_figure(rows: Mapping[str, Sequence[float]], *, title: str) -> Figure:
    """Draw a line for each row, with a dot for each seed and a stroke at their mean. Values are between 0 and 1."""
    figure, axes = _figure(6.4, 0.6 + 0.26 * max(len(rows), 2))
    for y, values in enumerate(rows.values()):
        if values:
            percent = [100 * value for value in values]
            mean = sum(percent) / len(percent)
            axes.plot(percent, [y] * len(percent), "o", color=series(0), alpha=0.45, markersize=5, clip_on=False)
            axes.plot([mean, mean], [y - 0.32, y + 0.32], color=series(0), linewidth=2.4)
            axes.annotate(f"{mean:.1f} %", (max(percent), y), (9, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(len(rows)), list(rows))
    axes.tick_params(axis="y", labelcolor=INK)
    axes.set(title=title, xlim=(0, None), ylim=(len(rows) - 0.4, -0.6))
    axes.margins(x=0.12)
    axes.grid(True, axis="x")
    axes.xaxis.set_major_formatter("{x:.0f} %")
    return figure


@_styled
def scale_figure(curves: Mapping[str, Mapping[float, Sequence[float]]], *, title: str) -> Figure:
    """Draw a curve for each teacher: the mean share over the logit scale, with a dot for each seed."""
    figure, axes = _figure(6.4, 3.0)
    means = {
        teacher: [(scale, sum(values) / len(values)) for scale, values in by_scale.items() if values]
        for teacher, by_scale in curves.items()
    }
    for index, by_scale in enumerate(curves.values()):
        seeds = [(scale, 100 * value) for scale, values in by_scale.items() for value in values]
        axes.plot(*np.reshape(seeds, (-1, 2)).T, "o", color=series(index), alpha=0.4, markersize=4)
    ends = _draw_lines(axes, means)
    scales = sorted({scale for by_scale in curves.values() for scale in by_scale})
    axes.set(title=title, xlabel="logit scale", xscale="log")
    axes.set_xticks(scales, [f"{scale:g}" for scale in scales])
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:.1f} %")
    _label_ends(axes, ends, "{:.1f} %")
    return figure


@_styled
def tradeoff_figure(models: Mapping[str, Tradeoff], *, title: str, highlight: str | None = None) -> Figure:
    """Draw accuracy over latency. A circle's area grows with the number of parameters. Use latencies of one machine only."""
    figure, axes = _figure(4.8, 3.0)
    largest = max(model.parameters for model in models.values())
    for name, model in models.items():
        area = 30 + 350 * model.parameters / largest
        color = series(0) if highlight in (None, name) else NEUTRAL
        point = model.milliseconds, 100 * model.share
        axes.scatter(*point, s=area, color=color, alpha=0.7, linewidth=0)
        offset = (3 + math.sqrt(area) / 2, 0)
        axes.annotate(name, point, offset, textcoords="offset points", va="center", fontsize=8)
    slowest, fastest = (f(model.milliseconds for model in models.values()) for f in (max, min))
    limits = fastest / 1.8, slowest * 2.5
    ticks = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 2, 5)]
    axes.set(title=title, xlabel="milliseconds for one image and one text", xscale="log", xlim=limits)
    axes.set_xticks([tick for tick in ticks if limits[0] <= tick <= limits[1]])
    axes.minorticks_off()
    axes.xaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_major_formatter("{x:g} %")
    axes.margins(y=0.25)
    return figure


@_styled
def matrix_figure(shares: np.ndarray, names: Sequence[str]) -> Figure:
    """Draw a confusion matrix ``[classes, classes]``. Rows are right classes, and darker squares are larger shares."""
    from matplotlib.patches import Rectangle

    classes = len(names)
    figure, axes = _figure(2.2 + 0.21 * classes, 1.8 + 0.21 * classes)
    # squares and not an image, so that the page's theme can color them
    for row, column in zip(*np.nonzero(shares), strict=True):
        color = series(0) if row == column else series(1)
        square = Rectangle((column - 0.5, row - 0.5), 1, 1, color=color, alpha=float(shares[row, column]), linewidth=0)
        axes.add_patch(square)
    shown = [name if len(name) <= 20 else name[:19] + "…" for name in names]
    axes.set_xticks(range(classes), shown, rotation=90)
    axes.set_yticks(range(classes), shown)
    limits = -0.5, classes - 0.5
    axes.set(xlim=limits, ylim=limits[::-1], aspect="equal", xlabel="predicted class", ylabel="right class")
    axes.grid(False)
    return figure


@_styled
def score_figure(counts: Sequence[int], cut: float | None = None) -> Figure:
    """Draw a histogram of scores. ``counts`` are of equal intervals from -1 to 1. Scores below ``cut`` are gray."""
    figure, axes = _figure(6.4, 2.6)
    axes.margins(y=0.2)  # leave room above the bars for the label of the cut
    occupied = np.flatnonzero(counts)
    if len(occupied):
        first, last = occupied[0], occupied[-1] + 1
        merged = math.ceil((last - first) / _SCORE_BARS)
        starts = np.arange(first, last, merged)
        width = 2 / len(counts)
        edges = -1 + width * starts
        heights = np.add.reduceat(np.asarray(counts), starts)
        colors = [NEUTRAL if cut is not None and edge + width * merged <= cut else series(0) for edge in edges]
        axes.bar(edges, heights, width=width * merged * 0.92, align="edge", color=colors)
    if cut is not None:
        axes.axvline(cut, color=MUTED, linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"cut {cut:.3f}",
            (cut, 1),
            (4, -2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            va="top",
        )
    axes.set(title="pairs by score", xlabel="cosine similarity of image and caption", ylim=(0, None))
    axes.yaxis.set_major_formatter(lambda value, _: count(value))
    return figure


@_styled
def png(figure: Figure) -> bytes:
    """Render a small PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, facecolor=PAPER)
    image = Image.open(buffer).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    image.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


@_styled
def svg(figure: Figure, name: str) -> str:
    """Render an ``<svg>`` element with the colors of the page. ``name`` prefixes its ids."""
    buffer = io.StringIO()
    no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=no_metadata)
    text = buffer.getvalue()
    text = re.sub(r"\s*<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    # The root element begins with these four attributes. Without a size it takes the width of the page.
    text = re.sub(r' (?:width|height|xmlns(?::xlink)?)="[^"]*"', "", text, count=4)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    for color, variable in VARIABLES.items():
        text = text.replace(color, f"var({variable}, {color})")
    return text


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _draw_lines(axes: Axes, lines: Mapping[str, Sequence[Point]]) -> dict[str, float]:
    """Draw shares between 0 and 1 as percent. Return the last percentage of each line."""
    ends = {}
    for index, (name, points) in enumerate(lines.items()):
        if points:
            positions, shares = zip(*points, strict=True)
            percent = [100 * share for share in shares]
            axes.plot(positions, percent, color=series(index), linewidth=1.8, marker="o", markersize=3.5)
            ends[name] = percent[-1]
    return ends


def _label_ends(axes: Axes, ends: Mapping[str, float], form: str, muted: Collection[str] = ()) -> None:
    """Label the ends of the lines with names and last values. Labels do not overlap."""
    low, high = axes.get_ylim()
    points = (axes.get_window_extent().height or 1) * 72 / axes.figure.dpi
    wanted = [(value - low) / ((high - low) or 1) * points for value in ends.values()]
    moved = spread(wanted, _LABEL_GAP)
    for index, (name, value) in enumerate(ends.items()):
        axes.annotate(
            f"{name}  {form.format(value)}",
            (1, value),
            (10, moved[index] - wanted[index]),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            va="center",
            color=MUTED if name in muted else series(index),
            annotation_clip=False,
        )


def spread(positions: Sequence[float], gap: float) -> list[float]:
    """Move positions until they are at least ``gap`` apart. Their order stays. Overlapping positions are centered as a group."""
    order = sorted(range(len(positions)), key=lambda index: positions[index])
    groups: list[list[int]] = []
    centers: list[float] = []
    for index in order:
        groups.append([index])
        centers.append(positions[index])
        while len(groups) > 1 and centers[-1] - centers[-2] < gap * (len(groups[-1]) + len(groups[-2])) / 2:
            groups[-2:] = [groups[-2] + groups[-1]]
            centers[-2:] = [sum(positions[index] for index in groups[-1]) / len(groups[-1])]
    result = list(positions)
    for group, center in zip(groups, centers, strict=True):
        for rank, index in enumerate(group):
            result[index] = center + gap * (rank - (len(group) - 1) / 2)
    return result


def _thin(points: Sequence[Point], most: int = 500) -> list[Point]:
    """Average neighboring points if there are more than ``most``."""
    size = math.ceil(len(points) / most) or 1
    groups = [points[start : start + size] for start in range(0, len(points), size)]
    return [(group[-1][0], sum(value for _, value in group) / len(group)) for group in groups]


def _running_mean(values: Sequence[float], radius: int) -> np.ndarray:
    """Return the mean of each value and its neighbors up to ``radius`` away."""
    window = np.ones(2 * radius + 1)
    sums, numbers = (np.convolve(each, window)[radius:-radius] for each in (values, np.ones(len(values))))
    return np.asarray(sums / numbers)


def count(value: float) -> str:
    """Format a number for people: 38.4 k, 12.8 M."""
    for size, suffix in ((1e9, " B"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def percent(share: float | None) -> str:
    """Format a share between 0 and 1 as percent with one decimal, without the sign."""
    return "–" if share is None else f"{100 * share:.1f}"

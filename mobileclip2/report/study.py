"""Results of a study: a table of its rows, and figures of the rows or of accuracy over logit scales."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobileclip2.config.study import Study, scale_name, trial_name
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.results import MetricName
from mobileclip2.report import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METRICS = ("acc1", "mean_recall@1")
"""reported metrics of classification and retrieval sets"""


@dataclass(frozen=True)
class Line:
    """A row of a study: shares by metric and seed. Trials that are not trained yet are missing."""

    name: str
    scores: Mapping[str, Sequence[float]]

    def mean(self, metric: str) -> float | None:
        """Return the mean of a metric over the seeds, or None before the first trial."""
        return statistics.mean(self.scores[metric]) if self.scores.get(metric) else None


@dataclass(frozen=True)
class Found:
    """A study with its results."""

    study: Study
    lines: Sequence[Line]

    @property
    def metrics(self) -> list[str]:
        """Return the metrics ``<set>/<metric>`` in the order of the study's sets."""
        return list(dict.fromkeys(metric for line in self.lines for metric in line.scores))

    def best(self, metric: str) -> str:
        """Return the name of the line with the highest mean. Ties go to the first line."""
        means = {line.name: line.mean(metric) or 0.0 for line in self.lines}
        return max(means, key=lambda name: means[name])


def found(pipeline: Pipeline, name: str) -> Found:
    """Collect the scores of the study's trials that are in the store."""
    study, asset = pipeline.profile.study(name), pipeline.graph[f"study/{name}"]
    lines = []
    for row in study.lines(pipeline.profile.student(study.student), pipeline.profile.dataset_teachers):
        scores: dict[str, list[float]] = {}
        for seed in study.seeds:
            trial = trial_name(row.name, seed)
            if pipeline.missing(asset, trial):
                continue
            (artifact,) = pipeline.read(asset.key, trial)
            for metric, value in artifact.manifest.facts["scores"].items():
                if MetricName.parse(metric).metric in METRICS:
                    scores.setdefault(metric, []).append(value)
        lines.append(Line(row.name, scores))
    return Found(study, lines)


def figures(result: Found) -> list[Figure]:
    """Draw a figure for each metric."""
    plotted = []
    for metric in result.metrics:
        title = metric.replace("/", "  ·  ")
        if result.study.scales:
            by_name = {line.name: line.scores.get(metric, ()) for line in result.lines}
            curves = {
                teacher: {scale: by_name[scale_name(teacher, scale)] for scale in sorted(scales)}
                for teacher, scales in result.study.scales.items()
            }
            plotted.append(plots.scale_figure(curves, title=title))
        else:
            plotted.append(
                plots.trial_figure({line.name: line.scores.get(metric, ()) for line in result.lines}, title=title)
            )
    return plotted


def table(result: Found) -> list[list[str]]:
    """Format a heading and a line for each row: the mean over the seeds, and their range in brackets."""
    lines = [[result.study.name, "seeds", *result.metrics]]
    for line in result.lines:
        cells = [_cell(line.scores.get(metric, ())) for metric in result.metrics]
        seeds = max((len(values) for values in line.scores.values()), default=0)
        lines.append([line.name, f"{seeds} of {len(result.study.seeds)}", *cells])
    return lines


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean, spread = 100 * statistics.mean(values), 100 * (max(values) - min(values))
    return f"{mean:.1f} ({spread:.1f})" if len(values) > 1 else f"{mean:.1f}"

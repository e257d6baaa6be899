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
class StudyResult:
    """A study with the scores of its rows by name: shares by metric and seed. Trials that are not trained yet are missing."""

    study: Study
    rows: Mapping[str, Mapping[str, Sequence[float]]]

    @property
    def metrics(self) -> list[str]:
        """Return the metrics ``<set>/<metric>`` in the order of the study's sets."""
        return list(dict.fromkeys(metric for scores in self.rows.values() for metric in scores))


def study_result(pipeline: Pipeline, name: str) -> StudyResult:
    """Collect the scores of the study's trials that are in the store."""
    study, asset = pipeline.profile.study(name), pipeline.graph[f"study/{name}"]
    rows: dict[str, dict[str, list[float]]] = {}
    for row in study.lines(pipeline.profile.student(study.student), pipeline.profile.dataset_teachers):
        scores = rows.setdefault(row.name, {})
        for seed in study.seeds:
            trial = trial_name(row.name, seed)
            if pipeline.missing(asset, trial):
                continue
            (artifact,) = pipeline.read(asset.key, trial)
            for metric, value in artifact.manifest.facts["scores"].items():
                if MetricName.parse(metric).metric in METRICS:
                    scores.setdefault(metric, []).append(value)
    return StudyResult(study, rows)


def figures(result: StudyResult) -> list[Figure]:
    """Draw a figure for each metric."""
    plotted = []
    for metric in result.metrics:
        title = metric.replace("/", "  ·  ")
        by_name = {name: scores.get(metric, ()) for name, scores in result.rows.items()}
        if result.study.scales:
            curves = {
                teacher: {scale: by_name[scale_name(teacher, scale)] for scale in sorted(scales)}
                for teacher, scales in result.study.scales.items()
            }
            plotted.append(plots.scale_figure(curves, title=title))
        else:
            plotted.append(plots.trial_figure(by_name, title=title))
    return plotted


def table(result: StudyResult) -> list[list[str]]:
    """Format a heading and a line for each row: the mean over the seeds, and their range in brackets."""
    lines = [[result.study.name, "seeds", *result.metrics]]
    for name, scores in result.rows.items():
        cells = [_cell(scores.get(metric, ())) for metric in result.metrics]
        seeds = max((len(values) for values in scores.values()), default=0)
        lines.append([name, f"{seeds} of {len(result.study.seeds)}", *cells])
    return lines


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean, spread = 100 * statistics.mean(values), 100 * (max(values) - min(values))
    return f"{mean:.1f} ({spread:.1f})" if len(values) > 1 else f"{mean:.1f}"

"""Pictures and tables of materializations, read from the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from mobileclip2.asset_key import AssetKey
from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import View, render
from mobileclip2.engine.graph import pairs_of
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import images_of, raw_table, side_name
from mobileclip2.evaluation.wise_ft import CURVE, Point, read_curve
from mobileclip2.report import plots
from mobileclip2.report.pictures import SampleRow, inline_markdown, sample_sheet, sparkline, strip
from mobileclip2.stages.data_checks import paths
from mobileclip2.stages.stored_results import results_so_far
from mobileclip2.store import Artifact

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROWS = 5
VIEW_SIZE = 96


class Sheet(NamedTuple):
    """Pictures of the first samples of a group, as Markdown."""

    preview: str
    """images without text, small enough to be shown at once"""
    sheet: str
    """images with their views, captions and keys"""


def first_samples(
    pipeline: Pipeline, group: str, alt: str, *, views: bool = False, captioners: tuple[str, ...] = ()
) -> Sheet:
    """Draw the first samples of a group."""
    first = list(islice(rows(pipeline, group, views=views, captioners=captioners), ROWS))
    preview = strip([image for row in first for image in (row.image, *row.views)], alt)
    return Sheet(preview, inline_markdown(sample_sheet(first), alt))


def rows(
    pipeline: Pipeline, group: str, *, views: bool = False, captioners: tuple[str, ...] = ()
) -> Iterator[SampleRow]:
    """Yield the samples of a group in the order of its shards, with their stored views and captions."""
    # later stages have no views and captions of the pairs that a selection removed
    (raw,) = pipeline.read(pairs_of(pipeline.profile) if views or captioners else "raw_shards", group)
    views_stored = pipeline.read("augmentations", group) if views else []
    captions_stored = [
        (name, artifact) for name in captioners for artifact in pipeline.read(f"synthetic_captions/{name}", group)
    ]
    for shard in pipeline.inventory.group_shards(group):
        table = raw_table(raw, shard)
        captions = dict(zip(*(table.column(name).to_pylist() for name in ("key", "caption")), strict=True))
        stored_views = [_column(artifact, shard, "view") for artifact in views_stored]
        synthetic = [(name, _column(artifact, shard, "caption")) for name, artifact in captions_stored]
        for key, image in images_of(shard, table):
            yield SampleRow(
                key,
                image,
                # ``training.views`` renders faster, but needs torch
                [render(image, View.from_json(stored[key]), VIEW_SIZE) for stored in stored_views],
                captions[key],
                [(name, texts[key]) for name, texts in synthetic],
            )


def _column(artifact: Artifact, shard: Shard, name: str) -> dict[str, str]:
    table = sidecar.read(artifact.fetch(side_name(shard)))
    return dict(zip(table.column("key").to_pylist(), table.column(name).to_pylist(), strict=True))


def columns(pipeline: Pipeline, result: MaterializeResult) -> list[tuple[str, str, bool]]:
    """Return (name, type, nullable) of each column. The result is empty for a stage that writes no sidecar."""
    artifact = Artifact(pipeline.storage, next(iter(result.summaries.values())))
    path = next(paths(artifact), None)
    return [(field.name, str(field.type), field.nullable) for field in sidecar.schema(path)] if path else []


def training_records(pipeline: Pipeline, key: str, group: str | None = None) -> list[Mapping[str, Any]]:
    """Return the records of ``metrics.jsonl``. The list is empty for an asset that was not trained."""
    (artifact,) = pipeline.read(key, group)
    if "metrics.jsonl" not in {file.name for file in artifact.manifest.files}:
        return []
    return [json.loads(line) for line in artifact.fetch("metrics.jsonl").read_text().splitlines()]


def training_curve(pipeline: Pipeline, key: str, group: str | None = None) -> tuple[dict[str, float], Sheet]:
    """Return the last value of every metric of a training, and its loss curve."""
    records = training_records(pipeline, key, group)
    last = {name: value for record in records for name, value in record.items()}
    preview = sparkline([record["loss"] for record in records if "loss" in record], "loss")
    return last, Sheet(preview, _plot(plots.loss_figure(records, group or AssetKey(key).name), "loss"))


def between_curve(pipeline: Pipeline, student: str) -> tuple[list[Point], float]:
    """Return the curve of an interpolated student, and the picked weight."""
    (artifact,) = pipeline.read(f"student/{student}")
    return read_curve(artifact.fetch(CURVE)), artifact.manifest.facts["weight"]


def between_sheet(pipeline: Pipeline, student: str) -> tuple[list[tuple[float, str, float]], float, Sheet]:
    """Return (weight, set, main metric) of every point, the picked weight, and a picture of the curve."""
    curve, picked = between_curve(pipeline, student)
    table = [(point.weight, name, point.main(name)) for point in curve for name in point.metrics]
    means = [fmean(point.main(name) for name in point.metrics) for point in curve]
    picture = _plot(plots.between_figure(curve, picked), "interpolated weights")
    return table, picked, Sheet(sparkline(means, "interpolated weights"), picture)


def evaluation_results(pipeline: Pipeline, model: str, name: str) -> tuple[dict[str, float], str]:
    """Return the defined metrics of one set, and a plot of the main metric of all sets that are evaluated so far."""
    results = results_so_far(pipeline, model)
    (result,) = (result for result in results if result.key == name)
    metrics = {metric: value for metric, value in result.metrics.items() if value is not None}
    return metrics, _plot(plots.metric_figure({model: results}), "metrics")


def _plot(figure: Figure, alt: str) -> str:
    return inline_markdown(plots.png(figure), alt)

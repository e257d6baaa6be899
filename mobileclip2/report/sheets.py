"""Pictures and tables of materializations, read from the store."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple

from PIL import Image

from mobileclip2.asset_key import AssetKey
from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import View, render
from mobileclip2.engine.graph import pairs_of
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import images_of, raw_table, side_name
from mobileclip2.evaluation.wise_ft import CURVE, Point, read_curve
from mobileclip2.report import plots
from mobileclip2.report.pictures import SampleRow, inline_markdown, sample_sheet
from mobileclip2.report.previews import sparkline, strip
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


def raw_sheet(pipeline: Pipeline, group: str) -> Sheet:
    """Draw the first samples of a group with their captions."""
    return _sheet(rows(pipeline, group), "samples")


def views_sheet(pipeline: Pipeline, group: str) -> Sheet:
    """Draw the first samples of a group with their stored views."""
    return _sheet(rows(pipeline, group, views=True), "views")


def captions_sheet(pipeline: Pipeline, captioner: str, group: str) -> Sheet:
    """Draw the first samples of a group with the captions of one captioner."""
    return _sheet(rows(pipeline, group, captioners=(captioner,)), "captions")


def reinforced_sheet(pipeline: Pipeline, group: str) -> Sheet:
    """Draw the first samples of a group with views and all captions."""
    captioners = pipeline.profile.dataset_captioners
    return _sheet(rows(pipeline, group, views=True, captioners=captioners), "reinforced samples")


def _sheet(samples: Iterator[SampleRow], alt: str) -> Sheet:
    first = list(islice(samples, ROWS))
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
                [_rendered(image, stored[key]) for stored in stored_views],
                captions[key],
                [(name, texts[key]) for name, texts in synthetic],
            )


def _column(artifact: Artifact, shard: Shard, name: str) -> dict[str, str]:
    table = sidecar.read(artifact.fetch(side_name(shard)))
    return dict(zip(table.column("key").to_pylist(), table.column(name).to_pylist(), strict=True))


def _rendered(image: Image.Image, view: str) -> Image.Image:
    """Render a stored view as the teachers see it. ``training.views`` renders faster for training, but needs torch."""
    return render(image, View.from_json(view), VIEW_SIZE)


def training_records(pipeline: Pipeline, key: str, group: str | None = None) -> list[Mapping[str, Any]]:
    """Return the records of ``metrics.jsonl``. The list is empty for an asset that was not trained."""
    (artifact,) = pipeline.read(key, group)
    if "metrics.jsonl" not in {file.name for file in artifact.manifest.files}:
        return []
    return [json.loads(line) for line in artifact.fetch("metrics.jsonl").read_text().splitlines()]


def training_curve(pipeline: Pipeline, key: str, group: str | None = None) -> tuple[dict[str, float], Sheet]:
    """Return the last value of every metric of a training, and its loss curve."""
    records = training_records(pipeline, key, group)
    last: dict[str, float] = {}
    for record in records:
        last.update(record)
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

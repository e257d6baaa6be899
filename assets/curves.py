"""Metadata of a trained model: the last values of its metrics and its loss curve."""

from __future__ import annotations

import dagster as dg

from assets.metadata import folder, link, pictures
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def training_metadata(pipeline: Pipeline, result: MaterializeResult) -> dict[str, object]:
    """Return the last metrics of a training and its loss curve. The result is empty for a model that was not trained."""
    from mobileclip2.report.sheets import training_curve

    (summary,) = result.summaries.values()
    if "metrics.jsonl" not in (summary.watched or []):
        return {}
    board = pipeline.profile.tensorboard
    numbers, curve = training_curve(pipeline, result.asset.key, result.group)
    return {
        **pictures(loss_curve=curve),
        **numbers,
        "training_log": link(f"{folder(pipeline, result)}/metrics.jsonl"),
        **({"tensorboard": dg.MetadataValue.url(board)} if board else {}),
    }

"""What every trained model shows: its last numbers and its loss curve."""

from __future__ import annotations

import dagster as dg

from mobileclip2.engine.pipeline import MaterializeResult, Pipeline


def training_metadata(pipeline: Pipeline, done: MaterializeResult) -> dict[str, object]:
    """Return the last numbers of a training and its loss curve, or nothing for a model that was not trained."""
    from mobileclip2.report.sheets import training_curve

    (head,) = done.heads.values()
    if "metrics.jsonl" not in (head.watched or []):
        return {}
    numbers, picture = training_curve(pipeline, done.asset.key, done.group)
    return {**numbers, "loss_curve": dg.MetadataValue.md(picture)}

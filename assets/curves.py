"""What every trained model shows: its last numbers and its loss curve."""

from __future__ import annotations

import dagster as dg

from mobileclip2.pipeline import Done, Pipeline


def training_metadata(pipeline: Pipeline, done: Done) -> dict[str, object]:
    from mobileclip2.report.sheets import training_curve

    (head,) = done.heads.values()
    if "metrics.jsonl" not in (head.watched or []):
        return {}
    numbers, picture = training_curve(pipeline, done.asset.key, done.group)
    return {**numbers, "loss_curve": dg.MetadataValue.md(picture)}

"""Columns of the sidecars of a materialization."""

from __future__ import annotations

from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import MaterializeResult, Pipeline
from mobileclip2.engine.shard_stage import SKIPPED
from mobileclip2.store import Artifact


def columns(pipeline: Pipeline, result: MaterializeResult) -> list[tuple[str, str, bool]]:
    """Return (name, type, nullable) of each column. The result is empty for a stage that writes no sidecar."""
    artifact = Artifact(pipeline.storage, next(iter(result.summaries.values())))
    names = [file.name for file in artifact.manifest.files]
    sidecars = [name for name in names if name.endswith(".parquet") and not name.endswith(SKIPPED)]
    if not sidecars:
        return []
    schema = sidecar.schema(artifact.fetch(sidecars[0]))
    return [(field.name, str(field.type), field.nullable) for field in schema]

"""Choose the next asset and group to compute."""

from __future__ import annotations

from collections.abc import Iterator

from mobileclip2.asset_key import AssetKey, Partition
from mobileclip2.engine.pipeline import Pipeline


class Schedule:
    """Asset-group pairs in topological order. A pair is ready when everything that it reads is finished."""

    def __init__(self, pipeline: Pipeline, keys: list[AssetKey]) -> None:
        self._pipeline = pipeline
        self.pending = [Partition(key, group) for key in keys for group in pipeline.groups(pipeline.graph[key])]
        """pairs that have not begun; at the end, those that depend on a failed one"""
        self._unfinished = set(self.pending)

    def next(self) -> Partition | None:
        """Remove and return the first pair that is ready. None if no pair is ready."""
        for number, partition in enumerate(self.pending):
            if self._unfinished.isdisjoint(upstream_of(self._pipeline, partition)):
                return self.pending.pop(number)
        return None

    def finish(self, partition: Partition) -> None:
        """Release the pairs that read this one. A pair that has failed is never finished."""
        self._unfinished.remove(partition)


def upstream_of(pipeline: Pipeline, partition: Partition) -> Iterator[Partition]:
    """Yield the asset-group pairs that a pair reads."""
    asset = pipeline.graph[partition.asset]
    for key in asset.upstream:
        upstream = pipeline.graph[key]
        for group in [partition.group] if upstream.grouped and asset.grouped else pipeline.groups(upstream):
            yield Partition(upstream.key, group)

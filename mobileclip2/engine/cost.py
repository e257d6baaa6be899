"""Estimate the samples, bytes and device-seconds of a slice from logged times, or from the rates of the profile."""

from __future__ import annotations

import statistics
from dataclasses import dataclass

from mobileclip2.engine.graph import RAW_SHARDS, SELECTED_SHARDS, Asset, Slice
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.staleness import History
from mobileclip2.store import ManifestSummary


@dataclass(frozen=True)
class Cost:
    """A sum of estimates over slices. ``unknown`` names the fields that some slice could not estimate."""

    samples: int = 0
    bytes: int = 0
    seconds: float = 0.0
    """device-seconds"""
    unknown: frozenset[str] = frozenset()
    """subset of ``samples``, ``bytes`` and ``seconds``; these sums are lower bounds"""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.samples + other.samples,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
            self.unknown | other.unknown,
        )


class Costs:
    """Estimates the costs of the slices of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._rates: dict[str, float | None] = {}
        self._bytes: dict[str, float | None] = {}

    def of(self, history: History, asset: Asset, slice_: Slice, group: str | None) -> Cost:
        """Estimate the cost of one slice of an asset for one group."""
        earlier = history.of(asset, slice_, group)
        samples = self._samples(history, earlier, asset, slice_, group)
        rate = self.rate(asset)
        if asset.grouped:
            bytes_per_sample = self._bytes_per_sample(history, asset)
            size = None if samples is None or bytes_per_sample is None else round(samples * bytes_per_sample)
        else:
            size = earlier[-1].size if earlier else None
        seconds = samples / rate if samples is not None and rate else None
        known = {"samples": samples, "bytes": size, "seconds": seconds}
        unknown = frozenset(name for name, value in known.items() if value is None)
        return Cost(samples or 0, size or 0, seconds or 0.0, unknown)

    def _samples(
        self, history: History, earlier: list[ManifestSummary], asset: Asset, slice_: Slice, group: str | None
    ) -> int | None:
        """Return the samples that a training sees, or the latest sample count of the group."""
        if slice_.training_samples is not None:
            return slice_.training_samples
        if asset.grouped:
            earlier = self._counted(history, asset, group) or earlier
        return earlier[-1].samples if earlier else None

    def _counted(self, history: History, asset: Asset, group: str | None) -> list[ManifestSummary]:
        """Return the stored summaries of the asset that counts the samples of a group.

        Until a selection is stored, the plan counts every valid pair, which is an upper bound.
        """
        if asset.stage == "reinforced_shards":
            keys = [asset.key]
        elif asset.stage in {"filter_scores", "selected_shards"}:
            keys = [RAW_SHARDS]
        else:
            keys = [key for key in (SELECTED_SHARDS, RAW_SHARDS) if key in self._pipeline.graph]
        for counted in map(self._pipeline.graph.__getitem__, keys):
            (slice_,) = counted.slices.values()
            current = self._pipeline.summary(counted, slice_, group)
            if summaries := [current] if current else history.of(counted, slice_, group):
                return summaries
        return []

    def rate(self, asset: Asset) -> float | None:
        """Return samples per device-second: the median of the logged times, or the rate of the profile."""
        if asset.key not in self._rates:
            measured = [
                record["samples"] / record["seconds"]
                for record in self._pipeline.times(asset.key)
                if record["samples"] and record["seconds"]
            ]
            stated = self._pipeline.profile.rates
            self._rates[asset.key] = (
                statistics.median(measured) if measured else stated.get(asset.key) or stated.get(asset.stage)
            )
        return self._rates[asset.key]

    def _bytes_per_sample(self, history: History, asset: Asset) -> float | None:
        if asset.key not in self._bytes:
            stored = history.by_slice(asset).values()
            summaries = [summary for summaries in stored for summary in summaries if summary.samples]
            samples = sum(summary.samples for summary in summaries)
            self._bytes[asset.key] = sum(summary.size for summary in summaries) / samples if samples else None
        return self._bytes[asset.key]

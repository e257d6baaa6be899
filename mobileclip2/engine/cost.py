"""What computing a part would cost: samples, bytes and hours, from what was measured here or what the profile states."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mobileclip2.engine.graph import Asset, Slice
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.store import ManifestSummary

if TYPE_CHECKING:
    from mobileclip2.engine.staleness import History


@dataclass(frozen=True)
class Cost:
    """Sums over parts; where something is not known of some of them, ``unknown`` names it."""

    samples: int = 0
    bytes: int = 0
    seconds: float = 0.0
    """of one device"""
    unknown: frozenset[str] = frozenset()
    """some of ``samples``, ``bytes``, ``seconds``: the sum is a lower bound of these"""

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.samples + other.samples,
            self.bytes + other.bytes,
            self.seconds + other.seconds,
            self.unknown | other.unknown,
        )


class Costs:
    """Estimates for the parts of one pipeline."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._rates: dict[str, float | None] = {}
        self._bytes: dict[str, float | None] = {}

    def of(self, history: History, asset: Asset, part: Slice, group: str | None) -> Cost:
        """Estimate the samples, bytes and seconds of one part of an asset for one group."""
        earlier = history.of(asset, part, group)
        samples = self._samples(history, earlier, asset, part, group)
        rate = self.rate(asset)
        if asset.grouped:
            each = self._bytes_a_sample(history, asset)
            size = None if samples is None or each is None else round(samples * each)
        else:
            size = earlier[-1].size if earlier else None
        seconds = samples / rate if samples is not None and rate else None
        known = {"samples": samples, "bytes": size, "seconds": seconds}
        unknown = frozenset(name for name, value in known.items() if value is None)
        return Cost(samples or 0, size or 0, seconds or 0.0, unknown)

    def _samples(
        self, history: History, earlier: list[ManifestSummary], asset: Asset, part: Slice, group: str | None
    ) -> int | None:
        """Estimate the samples of a part: the seen samples of a training, else those of the group as last counted."""
        length = part.declared.get("train")
        if length:
            return int(length["samples"] or length["steps"] * length["batch"])
        if asset.grouped:
            raw = self._pipeline.graph["raw_shards"]
            (raw_part,) = raw.parts.values()
            now = self._pipeline.head(raw, raw_part, group)
            earlier = [now] if now else history.of(raw, raw_part, group)
        return earlier[-1].samples if earlier else None

    def rate(self, asset: Asset) -> float | None:
        """Return samples per second: the median of what was measured, else the profile's figure."""
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

    def _bytes_a_sample(self, history: History, asset: Asset) -> float | None:
        if asset.key not in self._bytes:
            heads = [head for head in history.of_any_group(asset) if head.samples]
            samples = sum(head.samples for head in heads)
            self._bytes[asset.key] = sum(head.size for head in heads) / samples if samples else None
        return self._bytes[asset.key]

"""Plan a run: the slices to compute, with reasons and costs. Planning compares fingerprints and computes no output."""

from __future__ import annotations

from dataclasses import dataclass

from mobileclip2.asset_key import AssetKey, Partition
from mobileclip2.engine.cost import Cost, Costs
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.staleness import History, reasons
from mobileclip2.names import find


@dataclass(frozen=True)
class Item:
    """One slice of an asset for one group to compute."""

    asset: AssetKey
    slice: str
    group: str | None
    reasons: tuple[str, ...]
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """All missing slices in topological order.

    This is an upper bound: if a recomputed slice has the same bytes as before, its downstream slices are not recomputed.
    """

    items: tuple[Item, ...]
    reused: int
    """number of (slice, group) pairs that are finished"""

    @property
    def pairs(self) -> list[Partition]:
        """Return the partitions without duplicates."""
        return list(dict.fromkeys(Partition(item.asset, item.group) for item in self.items))

    @property
    def cost(self) -> Cost:
        """Return the total cost."""
        return sum((item.cost for item in self.items), Cost())


@dataclass(frozen=True)
class PlanRow:
    """A table row: the items of one asset with the same reasons."""

    asset: AssetKey
    groups: tuple[str | None, ...]
    slices: tuple[str, ...]
    reasons: tuple[str, ...]
    cost: Cost


def plan(pipeline: Pipeline, only: list[str] | None = None, *, every_byte: bool = False) -> Plan:
    """Plan a profile, or some of its assets with everything upstream of them.

    With ``every_byte``, hash all stored files and plan those that differ from their manifest.

    Raises:
        UserError: an input outside the store is missing, or the store cannot be read.
    """
    pipeline.forget(every_byte=every_byte)
    history, costs = History(pipeline), Costs(pipeline)
    items, total = [], 0
    for key in selected(pipeline, only):
        asset = pipeline.graph[key]
        for group in pipeline.groups(asset):
            total += len(asset.slices_of(group))
            for name in pipeline.missing(asset, group):
                slice_ = asset.slices[name]
                why = tuple(reasons(pipeline, history, asset, slice_, group))
                items.append(Item(asset.key, name, group, why, costs.of(history, asset, slice_, group)))
    return Plan(tuple(items), total - len(items))


def selected(pipeline: Pipeline, only: list[str] | None) -> list[AssetKey]:
    """Return the keys of all assets, or of some with everything upstream of them, in topological order.

    Raises:
        UserError: there is no such asset, or several assets match a short name.
    """
    keys = [asset.key for asset in pipeline.graph.values()]
    if not only:
        return keys
    found = {find(name, pipeline.graph, "asset") for name in only}
    for asset in reversed(pipeline.graph.values()):
        if asset.key in found:
            found.update(asset.upstream)
    return [key for key in keys if key in found]


def rows(plan: Plan) -> list[PlanRow]:
    """Group the items of a plan by asset and reasons."""
    grouped: dict[tuple[AssetKey, tuple[str, ...]], list[Item]] = {}
    for item in plan.items:
        grouped.setdefault((item.asset, item.reasons), []).append(item)
    return [
        PlanRow(
            asset,
            tuple(dict.fromkeys(item.group for item in items)),
            tuple(dict.fromkeys(item.slice for item in items)),
            why,
            sum((item.cost for item in items), Cost()),
        )
        for (asset, why), items in grouped.items()
    ]

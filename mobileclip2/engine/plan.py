"""What would be computed now, why, and what it will cost. Plans from fingerprints alone: nothing is computed or written."""

from __future__ import annotations

from dataclasses import dataclass

from mobileclip2.engine.cost import Cost, Costs
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.staleness import History, reasons
from mobileclip2.names import find


@dataclass(frozen=True)
class Item:
    """One part of an asset for one group that would be computed."""

    asset: str
    part: str
    group: str | None
    reasons: tuple[str, ...]
    cost: Cost


@dataclass(frozen=True)
class Plan:
    """Everything that :meth:`Pipeline.stale` would compute, in an order that can be computed.

    An upper bound: where a stage that runs again writes the bytes it wrote before, nothing that only reads it runs.
    """

    items: tuple[Item, ...]
    reused: int
    """parts, counted for each group, that are there already"""

    @property
    def pairs(self) -> list[tuple[str, str | None]]:
        """(asset, group), each once."""
        return list(dict.fromkeys((item.asset, item.group) for item in self.items))

    @property
    def cost(self) -> Cost:
        """Return the cost of all items together."""
        return sum((item.cost for item in self.items), Cost())


@dataclass(frozen=True)
class Row:
    """Items of one asset with the same reasons, as a table shows them."""

    asset: str
    groups: tuple[str | None, ...]
    parts: tuple[str, ...]
    reasons: tuple[str, ...]
    cost: Cost


def plan(pipeline: Pipeline, only: list[str] | None = None, *, every_byte: bool = False) -> Plan:
    """Plan a whole profile, or some of its assets and all they need.

    With ``every_byte`` all stored bytes are hashed, and what differs from its manifest is in the plan.

    Raises:
        UserError: an outside input is missing, or the store cannot be read.
    """
    pipeline.forget(every_byte=every_byte)
    history, costs = History(pipeline), Costs(pipeline)
    items, total = [], 0
    for key in selected(pipeline, only):
        asset = pipeline.graph[key]
        for group in pipeline.groups(asset):
            total += len(asset.parts_of(group))
            for name in pipeline.missing(asset, group):
                part = asset.parts[name]
                why = tuple(reasons(pipeline, history, asset, part, group))
                items.append(Item(key, name, group, why, costs.of(history, asset, part, group)))
    return Plan(tuple(items), total - len(items))


def selected(pipeline: Pipeline, only: list[str] | None) -> list[str]:
    """All assets of a profile in order, or some of them with everything that they read, directly or not.

    Raises:
        UserError: there is no such asset, or a short name is that of several.
    """
    if not only:
        return list(pipeline.graph)
    found = {find(name, pipeline.graph, "asset") for name in only}
    for asset in reversed(pipeline.graph.values()):
        if asset.key in found:
            found.update(asset.upstream)
    return [key for key in pipeline.graph if key in found]


def rows(plan: Plan) -> list[Row]:
    """Combine the items of a plan by asset and reasons."""
    grouped: dict[tuple[str, tuple[str, ...]], list[Item]] = {}
    for item in plan.items:
        grouped.setdefault((item.asset, item.reasons), []).append(item)
    return [
        Row(
            asset,
            tuple(dict.fromkeys(item.group for item in items)),
            tuple(dict.fromkeys(item.part for item in items)),
            why,
            sum((item.cost for item in items), Cost()),
        )
        for (asset, why), items in grouped.items()
    ]

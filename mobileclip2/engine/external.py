"""The inputs of the graph that lie outside the store: source shards, folders, weights and models on the hub."""

from __future__ import annotations

from dataclasses import dataclass

from mobileclip2.config.model import Model, Weights
from mobileclip2.config.sources import Patterns
from mobileclip2.fingerprint import canonical, declared


@dataclass(frozen=True)
class GroupShards:
    """External input of ``raw_shards``, or of the named published reinforced dataset: the tars of a group."""

    reinforced: str = ""


@dataclass(frozen=True)
class Folder:
    """External input: the files of a folder that match a pattern."""

    url: str | tuple[str, ...]
    pattern: Patterns = "**/*"


@dataclass(frozen=True)
class Pinned:
    """External input: a file or tag of weights."""

    weights: Weights


@dataclass(frozen=True)
class HubModel:
    """External input: the repositories of a model on the hub."""

    model: Model

    def __hash__(self) -> int:
        return hash(canonical(declared(self.model)))


External = GroupShards | Folder | Pinned | HubModel

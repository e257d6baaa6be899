"""The inputs of the graph that lie outside the store: source shards, folders, weights and models on the hub."""

from __future__ import annotations

from dataclasses import dataclass

from mobileclip2.config.model import Model, Weights
from mobileclip2.config.sources import Patterns


@dataclass(frozen=True)
class GroupShards:
    """External input of ``raw_shards``, or of the named published reinforced dataset: the tars of a group."""

    reinforced: str = ""


@dataclass(frozen=True)
class Folder:
    """External input: the files of a folder that match a pattern."""

    url: str | tuple[str, ...]
    pattern: Patterns = "**/*"


External = GroupShards | Folder | Weights | Model
"""``Weights`` are a file or a tag of weights, and a ``Model`` its repositories on the hub"""

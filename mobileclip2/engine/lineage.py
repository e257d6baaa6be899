"""Lineage of a stored output: all upstream outputs, shards and weights with their hashes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

from pydantic import BaseModel, ValidationError, model_validator

from mobileclip2.asset_key import AssetKey
from mobileclip2.errors import UserError

LINEAGE = "lineage.json"
"""file name beside every checkpoint; not listed in the manifest, because different lineages can produce the same bytes"""


class Node(BaseModel, frozen=True):
    """One stored output."""

    asset: AssetKey
    part: str
    group: str | None
    fingerprint: str
    code_version: str
    path: str
    """path in the store"""
    made_from: dict[str, str]
    """input name -> id of another node, or content hash of an input outside the store"""


class Lineage(BaseModel, frozen=True):
    """A directed acyclic graph. Each node comes after its inputs."""

    asset: AssetKey
    nodes: dict[str, Node]
    """by :class:`~mobileclip2.asset_key.SliceKey`"""

    @model_validator(mode="after")
    def _has_its_asset(self) -> Self:
        if all(node.asset != self.asset for node in self.nodes.values()):
            raise ValueError(f"no node of '{self.asset}'")
        return self

    def to_bytes(self) -> bytes:
        """Serialize the lineage as JSON."""
        return (json.dumps(self.model_dump(), indent=1) + "\n").encode()


def read_lineage(path: Path) -> Lineage:
    """Read a lineage from its file.

    Raises:
        UserError: the file is missing or is not a lineage.
    """
    try:
        return Lineage.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the lineage: {error.strerror}") from error
    except ValidationError:
        raise UserError(f"{path}: not a lineage file; pass the {LINEAGE} beside a checkpoint") from None


def branches(found: Lineage) -> dict[AssetKey, dict[str, Any]]:
    """Merge the nodes of each asset: ``{"made_from": [assets], "outside": {input: hashes}, "fingerprints": [...]}``."""
    assets: dict[AssetKey, dict[str, Any]] = {}
    for node in found.nodes.values():
        asset = assets.setdefault(node.asset, {"made_from": [], "outside": {}, "fingerprints": []})
        asset["fingerprints"].append(node.fingerprint)
        for role, source in node.made_from.items():
            if source in found.nodes:
                if found.nodes[source].asset not in asset["made_from"]:
                    asset["made_from"].append(found.nodes[source].asset)
            elif source not in asset["outside"].setdefault(role, []):
                asset["outside"][role].append(source)
    return assets

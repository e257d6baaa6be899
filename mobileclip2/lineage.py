"""What a stored output was made from, down to shards and weights, with hashes."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from mobileclip2.errors import DamagedOutput, UserError
from mobileclip2.graph import Asset, Part
from mobileclip2.pipeline import PartWork, Pipeline

LINEAGE = "lineage.json"
"""lies beside every checkpoint; no part of the manifest, because the same bytes may be made in more than one way"""


class Node(BaseModel):
    """One stored output."""

    model_config = ConfigDict(frozen=True)

    asset: str
    part: str
    group: str | None
    fingerprint: str
    code_version: str
    path: str
    """in the store"""
    made_from: dict[str, str]
    """role -> id of another node, or content hash of what lies outside the store"""

    @property
    def id(self) -> str:
        """Return the identifier that :func:`node_id` gives."""
        return node_id(self.asset, self.part, self.group)


class Lineage(BaseModel):
    """A tree with shared branches: every node once, sources before what was made from them."""

    model_config = ConfigDict(frozen=True)

    asset: str
    """the root"""
    nodes: dict[str, Node]

    def to_bytes(self) -> bytes:
        """Serialize the lineage as JSON."""
        return (json.dumps(self.model_dump(), indent=1) + "\n").encode()


def node_id(asset: str, part: str, group: str | None) -> str:
    """Return ``<asset>:<part>``, with ``@<group>`` for a grouped asset."""
    return f"{asset}:{part}" + (f"@{group}" if group else "")


def lineage(pipeline: Pipeline, works: Sequence[PartWork]) -> Lineage:
    """Trace parts of one asset that are finished, or whose inputs all are.

    Raises:
        DamagedOutput: something that it was made from is there no longer.
    """
    nodes: dict[str, Node] = {}
    for work in works:
        _add(pipeline, work, nodes)
    return Lineage(asset=works[0].asset.key, nodes=nodes)


def lineage_of(pipeline: Pipeline, key: str) -> Lineage:
    """Trace a finished asset with all its parts and groups.

    Raises:
        UserError: it is not materialised.
    """
    asset = pipeline.graph[key]
    if any(pipeline.missing(asset, group) for group in pipeline.groups(asset)):
        raise UserError(f"{key}: not materialised yet; run 'mobileclip2 run'")
    works = [
        pipeline.part_work(asset, part, group)
        for group in pipeline.groups(asset)
        for part in asset.parts_of(group).values()
    ]
    return lineage(pipeline, [work for work in works if work])


def _add(pipeline: Pipeline, work: PartWork, nodes: dict[str, Node]) -> None:
    made_from: dict[str, str] = {}
    for place, upstream, part, group in _upstream(pipeline, work):
        made_from[place] = node_id(upstream.key, part.name, group)
        if made_from[place] not in nodes:
            above = pipeline.part_work(upstream, part, group)
            if above is None:
                raise _lost(upstream.key)
            _add(pipeline, above, nodes)
    made_from.update({role: work.versions[role] for role in work.part.externals})
    node = Node(
        asset=work.asset.key,
        part=work.part.name,
        group=work.group,
        fingerprint=work.fingerprint,
        code_version=work.asset.code_version,
        path=work.output.prefix,
        made_from=made_from,
    )
    nodes[node.id] = node


def _upstream(pipeline: Pipeline, work: PartWork) -> Iterator[tuple[str, Asset, Part, str | None]]:
    for role, source in work.part.inputs.items():
        for place, upstream, head, group in pipeline.sources(work.asset, work.group, role, source):
            if head is None:
                raise _lost(upstream.key)
            yield place, upstream, upstream.parts[head.part], group


def _lost(key: str) -> DamagedOutput:
    return DamagedOutput(f"{key}: it is gone or damaged since it was read; run again, it is computed anew")


def read_lineage(path: Path) -> Lineage:
    """Read a lineage from its file.

    Raises:
        UserError: the file is missing or is none.
    """
    try:
        return Lineage.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: cannot read the lineage: {error.strerror}") from error
    except ValidationError:
        raise UserError(f"{path}: not a lineage as written here; give a {LINEAGE} beside a checkpoint") from None


def branches(found: Lineage) -> dict[str, dict[str, Any]]:
    """By asset, parts and groups together: ``{"made_from": [assets], "outside": {role: hashes}, "fingerprints": [...]}``."""
    assets: dict[str, dict[str, Any]] = {}
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

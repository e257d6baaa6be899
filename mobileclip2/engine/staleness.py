"""Why a part of an asset must be computed: what differs from the nearest thing that the store has."""

from __future__ import annotations

from typing import Any

from mobileclip2.engine.graph import Asset, Slice
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import DamagedOutput
from mobileclip2.store import ArtifactFolder, ManifestSummary

NEW = "new"

Key = tuple[str, str, str | None]
"""asset, part, group"""


class History:
    """Earlier outputs of a store, found by their folders."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._found: dict[str, dict[tuple[str, str | None], list[ManifestSummary]]] = {}

    def of(self, asset: Asset, part: Slice, group: str | None) -> list[ManifestSummary]:
        """Heads of the same part for the same group, whatever they were made from."""
        return self._all(asset).get((part.name, group), [])

    def of_any_group(self, asset: Asset) -> list[ManifestSummary]:
        """Heads of any part and group of an asset."""
        return [head for heads in self._all(asset).values() for head in heads]

    def _all(self, asset: Asset) -> dict[tuple[str, str | None], list[ManifestSummary]]:
        if asset.key not in self._found:
            self._found[asset.key] = {}
            storage = self._pipeline.storage
            for fingerprint in storage.folders(asset.key):
                divided = asset.grouped or asset.by_part
                for folder in storage.folders(f"{asset.key}/{fingerprint}") if divided else [None]:
                    try:
                        head = self._pipeline.heads.of(ArtifactFolder(storage, asset.key, fingerprint, folder))
                    except DamagedOutput:
                        continue
                    if head:
                        self._found[asset.key].setdefault((head.part, head.group), []).append(head)
        return self._found[asset.key]


def reasons(pipeline: Pipeline, history: History, asset: Asset, part: Slice, group: str | None) -> list[str]:
    """Why a missing part is missing, in words; ``new`` where the store has nothing to compare with."""
    if damage := pipeline.damaged.get((asset.key, part.name, group)):
        return [f"damaged: {damage}"]
    to_run = [f"upstream {key}" for key in _upstream_to_run(pipeline, asset, part, group)]
    known = _known_inputs(pipeline, asset, part, group)
    candidates = [(_differences(head, asset, part, known), head) for head in history.of(asset, part, group)]
    if not candidates:
        return [NEW, *to_run]
    nearest, _ = min(candidates, key=lambda candidate: (len(candidate[0]), candidate[1].fingerprint))
    return list(dict.fromkeys([*nearest, *to_run])) or ["its output is gone"]


def _upstream_to_run(pipeline: Pipeline, asset: Asset, part: Slice, group: str | None) -> list[str]:
    found = []
    for source in part.inputs.values():
        if any(head is None for _, _, head, _ in pipeline.sources(asset, group, "", source)):
            found.append(source.asset)
    return list(dict.fromkeys(found))


def _known_inputs(pipeline: Pipeline, asset: Asset, part: Slice, group: str | None) -> dict[str, str]:
    """Versions by role of what is there already; of the rest nothing can be said yet."""
    versions: dict[str, str] = {}
    for role, source in part.inputs.items():
        for place, _, head, _ in pipeline.sources(asset, group, role, source):
            if head is not None:
                versions[place] = head.data_version
    for role, external in part.externals.items():
        versions[role] = pipeline.contents.digest(external, group)
    return versions


def _differences(head: ManifestSummary, asset: Asset, part: Slice, known: dict[str, str]) -> list[str]:
    found = []
    if head.code_version != asset.code_version:
        found.append(f"code version {head.code_version} -> {asset.code_version}")
    found += field_changes(head.declared, part.declared)
    roles = {role: f"upstream {source.asset}" for role, source in part.inputs.items()}
    for place, version in known.items():
        role = _role(place, roles)
        if place not in head.inputs:
            found.append(f"{roles[role]} added" if role else f"{place} added")
        elif head.inputs[place] != version:
            found.append(f"{roles[role]} has changed" if role else f"{place} {_short(head.inputs[place], version)}")
    for place in head.inputs:
        role = _role(place, roles)
        if role is None and place not in part.externals:
            found.append(f"{place} is no longer read")
    return list(dict.fromkeys(found))


def _role(place: str, roles: dict[str, str]) -> str | None:
    """Return the role that the place of an input belongs to. Roles may contain slashes."""
    return next((role for role in roles if place == role or place.startswith(f"{role}/")), None)


def field_changes(before: Any, after: Any, name: str = "") -> list[str]:
    """Describe the declared fields that differ, for example ``train.steps 200 -> 300``."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            change
            for key in keys
            for change in field_changes(before.get(key), after.get(key), f"{name}.{key}" if name else str(key))
        ]
    same = type(before) is not type(after) and isinstance(before, int | float) and isinstance(after, int | float)
    if before == after or (same and float(before) == float(after)):
        return []
    return [f"{name} {_shown(before)} -> {_shown(after)}"]


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _short(before: str, after: str) -> str:
    return f"{before[:8]} -> {after[:8]}"

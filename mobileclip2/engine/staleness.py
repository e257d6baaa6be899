"""Explain why a slice is missing: list its differences from the most similar output in the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mobileclip2.asset_key import SliceKey
from mobileclip2.engine.graph import Asset, Slice
from mobileclip2.engine.pipeline import Pipeline, UpstreamOutput
from mobileclip2.errors import DamagedOutput
from mobileclip2.store import ArtifactFolder, ManifestSummary


class History:
    """Finds earlier outputs by listing the folders of the store."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._found: dict[str, dict[tuple[str, str | None], list[ManifestSummary]]] = {}

    def of(self, asset: Asset, slice_: Slice, group: str | None) -> list[ManifestSummary]:
        """Return the manifest summaries of a slice for a group, for all fingerprints."""
        return self.by_slice(asset).get((slice_.name, group), [])

    def by_slice(self, asset: Asset) -> dict[tuple[str, str | None], list[ManifestSummary]]:
        """Return the manifest summaries of an asset by slice and group, for all fingerprints."""
        if asset.key not in self._found:
            self._found[asset.key] = {}
            storage = self._pipeline.storage
            for fingerprint in storage.folders(asset.key):
                divided = asset.grouped or asset.by_slice
                for folder in storage.folders(f"{asset.key}/{fingerprint}") if divided else [None]:
                    try:
                        summary = self._pipeline.manifest_cache.of(
                            ArtifactFolder(storage, asset.key, fingerprint, folder)
                        )
                    except DamagedOutput:
                        continue
                    if summary:
                        self._found[asset.key].setdefault((summary.part, summary.group), []).append(summary)
        return self._found[asset.key]


def reasons(pipeline: Pipeline, history: History, asset: Asset, slice_: Slice, group: str | None) -> list[str]:
    """Return the reasons why a slice is missing; ``new`` if the store has no earlier output of it."""
    if damage := pipeline.damaged.get(SliceKey(asset.key, slice_.name, group)):
        return [f"damaged: {damage}"]
    sources = list(pipeline.upstream_outputs(asset, slice_, group))
    outside = {role: pipeline.inventory.digest(external, group) for role, external in slice_.externals.items()}
    to_run = dict.fromkeys(f"upstream {source.asset.key}" for source in sources if source.summary is None)
    candidates = [
        (_differences(summary, asset, slice_, sources, outside), summary)
        for summary in history.of(asset, slice_, group)
    ]
    if not candidates:
        return ["new", *to_run]
    nearest, _ = min(candidates, key=lambda candidate: (len(candidate[0]), candidate[1].fingerprint))
    return list(dict.fromkeys([*nearest, *to_run])) or ["its output was deleted"]


def _differences(
    summary: ManifestSummary, asset: Asset, slice_: Slice, sources: Sequence[UpstreamOutput], outside: Mapping[str, str]
) -> list[str]:
    """Compare an earlier output with a slice. Missing inputs have no version to compare."""
    changes = field_changes(summary.declared, slice_.declared)
    if summary.code_version != asset.code_version:
        changes.insert(0, f"code version {summary.code_version} -> {asset.code_version}")
    for source in sources:
        if source.summary is None:
            continue
        if source.name not in summary.inputs:
            changes.append(f"upstream {source.asset.key} added")
        elif summary.inputs[source.name] != source.summary.data_version:
            changes.append(f"upstream {source.asset.key} has changed")
    for role, version in outside.items():
        if role not in summary.inputs:
            changes.append(f"{role} added")
        elif summary.inputs[role] != version:
            changes.append(f"{role} {summary.inputs[role][:8]} -> {version[:8]}")
    # a role alone is the name of its only output, which has a longer name once there are several
    read = {name for source in sources for name in (source.name, source.role)}.union(outside)
    changes += [f"{name} is no longer read" for name in summary.inputs if name not in read]
    return list(dict.fromkeys(changes))


def field_changes(before: Any, after: Any, name: str = "") -> list[str]:
    """Describe the declared fields that differ, for example ``train.steps 200 -> 300``."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            change
            for key in keys
            for change in field_changes(before.get(key), after.get(key), f"{name}.{key}" if name else str(key))
        ]
    numeric = type(before) is not type(after) and isinstance(before, int | float) and isinstance(after, int | float)
    if before == after or (numeric and float(before) == float(after)):
        return []
    return [f"{name} {_shown(before)} -> {_shown(after)}"]


def _shown(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_shown, value))}]"
    text = "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    return text if len(text) <= 40 else f"{text[:37]}..."

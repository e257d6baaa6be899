"""Explain why a part is missing: list its differences from the most similar output in the store."""

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
    """Finds earlier outputs by listing the folders of the store."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline = pipeline
        self._found: dict[str, dict[tuple[str, str | None], list[ManifestSummary]]] = {}

    def of(self, asset: Asset, part: Slice, group: str | None) -> list[ManifestSummary]:
        """Return the manifest summaries of a part for a group, for all fingerprints."""
        return self._all(asset).get((part.name, group), [])

    def of_any_group(self, asset: Asset) -> list[ManifestSummary]:
        """Return the manifest summaries of an asset for all parts, groups and fingerprints."""
        return [summary for summaries in self._all(asset).values() for summary in summaries]

    def _all(self, asset: Asset) -> dict[tuple[str, str | None], list[ManifestSummary]]:
        if asset.key not in self._found:
            self._found[asset.key] = {}
            storage = self._pipeline.storage
            for fingerprint in storage.folders(asset.key):
                divided = asset.grouped or asset.by_part
                for folder in storage.folders(f"{asset.key}/{fingerprint}") if divided else [None]:
                    try:
                        summary = self._pipeline.summaries.of(ArtifactFolder(storage, asset.key, fingerprint, folder))
                    except DamagedOutput:
                        continue
                    if summary:
                        self._found[asset.key].setdefault((summary.part, summary.group), []).append(summary)
        return self._found[asset.key]


def reasons(pipeline: Pipeline, history: History, asset: Asset, part: Slice, group: str | None) -> list[str]:
    """Return the reasons why a part is missing; ``new`` if the store has no earlier output of it."""
    if damage := pipeline.damaged.get((asset.key, part.name, group)):
        return [f"damaged: {damage}"]
    to_run = [f"upstream {key}" for key in _upstream_to_run(pipeline, asset, part, group)]
    known = _known_inputs(pipeline, asset, part, group)
    candidates = [(_differences(summary, asset, part, known), summary) for summary in history.of(asset, part, group)]
    if not candidates:
        return [NEW, *to_run]
    nearest, _ = min(candidates, key=lambda candidate: (len(candidate[0]), candidate[1].fingerprint))
    return list(dict.fromkeys([*nearest, *to_run])) or ["its output was deleted"]


def _upstream_to_run(pipeline: Pipeline, asset: Asset, part: Slice, group: str | None) -> list[str]:
    found = []
    for source in part.inputs.values():
        if any(summary is None for _, _, summary, _ in pipeline.sources(asset, group, "", source)):
            found.append(source.asset)
    return list(dict.fromkeys(found))


def _known_inputs(pipeline: Pipeline, asset: Asset, part: Slice, group: str | None) -> dict[str, str]:
    """Return the versions of the finished inputs by name. Missing inputs have no version yet."""
    versions: dict[str, str] = {}
    for role, source in part.inputs.items():
        for input_name, _, summary, _ in pipeline.sources(asset, group, role, source):
            if summary is not None:
                versions[input_name] = summary.data_version
    for role, external in part.externals.items():
        versions[role] = pipeline.contents.digest(external, group)
    return versions


def _differences(summary: ManifestSummary, asset: Asset, part: Slice, known: dict[str, str]) -> list[str]:
    found = []
    if summary.code_version != asset.code_version:
        found.append(f"code version {summary.code_version} -> {asset.code_version}")
    found += field_changes(summary.declared, part.declared)
    roles = {role: f"upstream {source.asset}" for role, source in part.inputs.items()}
    for input_name, version in known.items():
        role = _role(input_name, roles)
        if input_name not in summary.inputs:
            found.append(f"{roles[role]} added" if role else f"{input_name} added")
        elif summary.inputs[input_name] != version:
            found.append(
                f"{roles[role]} has changed" if role else f"{input_name} {_short(summary.inputs[input_name], version)}"
            )
    for input_name in summary.inputs:
        role = _role(input_name, roles)
        if role is None and input_name not in part.externals:
            found.append(f"{input_name} is no longer read")
    return list(dict.fromkeys(found))


def _role(input_name: str, roles: dict[str, str]) -> str | None:
    """Return the role of an input name. Roles may contain slashes."""
    return next((role for role in roles if input_name == role or input_name.startswith(f"{role}/")), None)


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


def _short(before: str, after: str) -> str:
    return f"{before[:8]} -> {after[:8]}"

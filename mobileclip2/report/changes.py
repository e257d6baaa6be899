"""Captions that differ between the stored data of two profiles."""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass

from mobileclip2.asset_key import AssetKey
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.stages.data_checks import sidecar_names
from mobileclip2.store import Artifact

STAGES = ("raw_shards", "caption_corpus", "synthetic_captions")
"""stages whose sidecars have captions"""
SHOWN_CHARACTERS = 60

Outputs = dict[tuple[str | None, str], Artifact]
"""stored outputs of an asset by group and slice"""


@dataclass(frozen=True)
class DataChange:
    """The difference between the stored captions of an asset under two profiles."""

    asset: AssetKey
    before: int | None
    """number of captions; None if the earlier profile has no such asset or it is not stored"""
    after: int | None
    changed: int
    """number of captions that both have for a sample and slice, and that differ"""
    example: tuple[str, str, str] | None = None
    """key of the first of these samples, its caption before, and its caption after"""


def data_changes(before: Pipeline, after: Pipeline) -> list[DataChange]:
    """Compare the stored captions of two profiles. Assets with equal captions are left out.

    Files with equal hashes are not read. Groups that are not stored under both profiles do not count.
    """
    keys = [AssetKey(key) for key in {**before.graph, **after.graph}]
    changes = [_change(key, _outputs(before, key), _outputs(after, key)) for key in keys if key.stage in STAGES]
    return [change for change in changes if change.before != change.after or change.changed]


def _outputs(pipeline: Pipeline, key: AssetKey) -> Outputs:
    if key not in pipeline.graph:
        return {}
    asset = pipeline.graph[key]
    stored = [group for group in pipeline.groups(asset) if not pipeline.missing(asset, group)]
    return {(group, output.summary.part): output for group in stored for output in pipeline.read(key, group)}


def _change(asset: AssetKey, before: Outputs, after: Outputs) -> DataChange:
    groups = {group for group, _ in before} & {group for group, _ in after} or {group for group, _ in before | after}
    changed, example = 0, None
    for each in _differing(before, after):
        changed, example = changed + 1, example or each
    return DataChange(asset, _count(before, groups), _count(after, groups), changed, example)


def _count(outputs: Outputs, groups: set[str | None]) -> int | None:
    return (
        sum(output.manifest.samples for (group, _), output in outputs.items() if group in groups) if outputs else None
    )


def _differing(before: Outputs, after: Outputs) -> Iterator[tuple[str, str, str]]:
    """Yield key, earlier caption and later caption of the samples whose captions differ."""
    for group_and_slice in sorted(before.keys() & after.keys(), key=str):
        old, new = before[group_and_slice], after[group_and_slice]
        old_hashes, new_hashes = ({file.name: file.sha256 for file in each.manifest.files} for each in (old, new))
        for name in sorted({*sidecar_names(old)} & {*sidecar_names(new)}):
            if old_hashes[name] != new_hashes[name]:
                earlier = _captions(old, name)
                for key, caption in _captions(new, name).items():
                    if earlier.get(key, caption) != caption:
                        yield key, earlier[key], caption


def _captions(artifact: Artifact, name: str) -> dict[str, str]:
    table = sidecar.read(artifact.fetch(name), sidecar.CAPTIONS)
    return dict(zip(table.column("key").to_pylist(), table.column("caption").to_pylist(), strict=True))


def changes_as_markdown(changes: list[DataChange], baseline: str) -> str:
    """Format changes of the data as a Markdown table for a pull request's comment."""
    heading = f"### Data, compared with {baseline}\n\n"
    if not changes:
        return f"{heading}No captions differ.\n"
    lines = ["| asset | captions | captions that differ | example |", "|---|--:|--:|---|"]
    for change in changes:
        counts = " → ".join("not stored" if count is None else f"{count:,}" for count in (change.before, change.after))
        share = f" ({change.changed / change.after:.1%})" if change.changed and change.after else ""
        lines.append(f"| {change.asset} | {counts} | {change.changed:,}{share} | {_example(change)} |")
    return heading + "\n".join(lines) + "\n"


def _example(change: DataChange) -> str:
    if change.example is None:
        return ""
    key, before, after = map(_plain, change.example)
    return f"{key}: “{before}” → “{after}”"


def _plain(text: str) -> str:
    """Return the start of a text as it is shown in a Markdown table. Keys and captions come from the web."""
    short = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
    return " ".join("".join(f"\\{char}" if char in string.punctuation else char for char in short).split())

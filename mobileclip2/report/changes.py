"""What a profile changes in the stored data of another profile: samples, and captions that differ."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from mobileclip2.asset_key import AssetKey
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.stages.data_checks import sidecar_names
from mobileclip2.store import Artifact

STAGES = ("raw_shards", "caption_corpus", "synthetic_captions")
"""stages whose sidecars have captions"""


@dataclass(frozen=True)
class DataChange:
    """The difference between the stored outputs of an asset under two profiles."""

    asset: AssetKey
    before: int | None
    """number of samples; None if the earlier profile has no such asset or it is not stored"""
    after: int | None
    differ: int
    """number of samples of both outputs whose captions differ"""
    example: tuple[str, str, str] | None = None
    """key of the first of them, its caption before, and its caption after"""


def data_changes(before: Pipeline, after: Pipeline) -> list[DataChange]:
    """Compare the stored samples and captions of two profiles. Assets with equal outputs are left out.

    Files with equal hashes are not read. Groups that are not stored under both profiles do not count.
    """
    keys = [key for key in {**before.graph, **after.graph} if AssetKey(key).stage in STAGES]
    changes = (_change(AssetKey(key), _outputs(before, key), _outputs(after, key)) for key in keys)
    return [change for change in changes if change is not None]


def _outputs(pipeline: Pipeline, key: str) -> dict[str | None, list[Artifact]]:
    """Return the stored outputs of an asset by group."""
    if key not in pipeline.graph:
        return {}
    asset = pipeline.graph[AssetKey(key)]
    return {group: pipeline.read(key, group) for group in pipeline.groups(asset) if not pipeline.missing(asset, group)}


def _change(
    asset: AssetKey, before: dict[str | None, list[Artifact]], after: dict[str | None, list[Artifact]]
) -> DataChange | None:
    groups = before.keys() & after.keys() if before and after else {*before, *after}
    differ, example = 0, None
    for sample in _differing(before, after, sorted(groups, key=str)):
        differ, example = differ + 1, example or sample
    counts = [
        sum(artifact.manifest.samples for group in groups for artifact in outputs[group]) if outputs else None
        for outputs in (before, after)
    ]
    if counts[0] == counts[1] and not differ:
        return None
    return DataChange(asset, counts[0], counts[1], differ, example)


def _differing(
    before: dict[str | None, list[Artifact]], after: dict[str | None, list[Artifact]], groups: list[str | None]
) -> Iterator[tuple[str, str, str]]:
    """Yield key, earlier caption and later caption of the samples whose captions differ."""
    for group in groups:
        old, new = (
            {name: artifact for artifact in outputs.get(group, ()) for name in sidecar_names(artifact)}
            for outputs in (before, after)
        )
        for name in sorted(old.keys() & new.keys()):
            if _sha256(old[name], name) != _sha256(new[name], name):
                earlier = _captions(old[name], name)
                for key, caption in _captions(new[name], name).items():
                    if earlier.get(key, caption) != caption:
                        yield key, earlier[key], caption


def _sha256(artifact: Artifact, name: str) -> str:
    return next(file.sha256 for file in artifact.manifest.files if file.name == name)


def _captions(artifact: Artifact, name: str) -> dict[str, str]:
    table = sidecar.read(artifact.fetch(name), sidecar.CAPTIONS)
    return dict(zip(table.column("key").to_pylist(), table.column("caption").to_pylist(), strict=True))


def changes_as_markdown(changes: list[DataChange], baseline: str) -> str:
    """Format changes of the data as a Markdown table. The text is that of a pull request's comment."""
    heading = f"### Data, compared with {baseline}\n\n"
    if not changes:
        return f"{heading}No samples and no captions differ.\n"
    lines = ["| asset | samples | captions that differ | example |", "|---|--:|--:|---|"]
    for change in changes:
        counts = " → ".join("not stored" if count is None else f"{count:,}" for count in (change.before, change.after))
        share = f" ({change.differ / change.after:.1%})" if change.differ and change.after else ""
        lines.append(f"| {change.asset} | {counts} | {change.differ:,}{share} | {_example(change)} |")
    return heading + "\n".join(lines) + "\n"


SHOWN_CHARACTERS = 60


def _example(change: DataChange) -> str:
    if change.example is None:
        return ""
    key, *captions = change.example
    before, after = (_quoted(caption) for caption in captions)
    return f"`{key}`: {before} → {after}"


def _quoted(caption: str) -> str:
    """Return a caption as text of a Markdown table. Captions come from the web, so nothing in them is markup."""
    short = caption if len(caption) <= SHOWN_CHARACTERS else f"{caption[: SHOWN_CHARACTERS - 1]}…"
    escaped = "".join(f"\\{character}" if character in r"\`*_{}[]<>()#+-.!|@~" else character for character in short)
    return f"“{' '.join(escaped.split())}”"

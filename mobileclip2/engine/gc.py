"""What a store holds that nobody needs any more. Finding it deletes nothing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobileclip2.config.profile import parse
from mobileclip2.engine.lineage import LINEAGE, read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.store import ArtifactFolder
from mobileclip2.store.lease import acquire, notes
from mobileclip2.store.scratch import FOLDER as SCRATCH

_UNDERWAY = re.compile(rf"^{re.escape(SCRATCH)}/(?P<asset>.+)/(?P<fingerprint>[0-9a-f]{{16}})/")
_PLACE = re.compile(r"^(?P<asset>.+)/(?P<fingerprint>[0-9a-f]{16})(?:/(?P<group>[^/]+))?/[^/]+$")
_UNGROUPED = re.compile(r"^.+?/[0-9a-f]{16}(?=/|$)")


@dataclass
class Stored:
    """One output in the store, finished or begun."""

    asset: str
    fingerprint: str
    group: str | None
    files: int = 0
    bytes: int = 0
    finished: bool = False
    scratch: bool = False
    """what unfinished work left to go on from"""

    @property
    def path(self) -> str:
        """Return the path of the output, relative to the store."""
        place = f"{self.asset}/{self.fingerprint}" + (f"/{self.group}" if self.group else "")
        return f"{SCRATCH}/{place}" if self.scratch else place


def stored(pipeline: Pipeline) -> dict[str, Stored]:
    """Every output in the store by its path."""
    found: dict[str, Stored] = {}
    for key, size in pipeline.storage.list(""):
        if match := _UNDERWAY.match(key):
            each = Stored(match["asset"], match["fingerprint"], None, scratch=True)
        elif match := None if key.startswith(".") else _PLACE.match(key):
            each = Stored(match["asset"], match["fingerprint"], match["group"])
        if match:
            each = found.setdefault(each.path, each)
            each.files += 1
            each.bytes += size
            each.finished |= key.endswith("/manifest.json")
    return found


def needed(pipeline: Pipeline, found: Iterable[Stored] = ()) -> set[str]:
    """Paths of what a profile has and of what it has begun.

    What is made from something that is missing has no fingerprint yet: computed again, that may well have the same bytes and
    make current what lies below it. So of such an asset everything ``found`` is needed.
    """
    paths = set()
    places: dict[tuple[str, str | None], list[str]] = {}
    for each in found:
        places.setdefault((each.asset, each.group), []).append(each.path)
    for asset in pipeline.graph.values():
        for group in pipeline.groups(asset):
            for part in asset.parts_of(group).values():
                work = pipeline.part_work(asset, part, group)
                paths.update([work.output.prefix] if work else places.get((asset.key, group), []))
    return paths


def needed_by_runs(pipeline: Pipeline, found: Sequence[Stored]) -> set[str]:
    """Paths that the profiles of running processes need, whichever they are."""
    paths: set[str] = set()
    for note in notes(pipeline.storage):
        running = json.loads(note)
        paths |= needed(Pipeline(parse(running["text"], origin=Path(running["folder"]) / "profile.yaml")), found)
    return paths


def lineages_in(folder: Path) -> list[Path]:
    """Find the lineage of every checkpoint in a folder.

    Raises:
        UserError: there is none, and what was to be kept would be deleted.
    """
    lineages = sorted(folder.rglob(LINEAGE))
    if not lineages:
        raise UserError(f"{folder}: no {LINEAGE} lies in this folder; give a folder of checkpoints to --keep")
    return lineages


def needed_by_checkpoints(lineages: Iterable[Path]) -> set[str]:
    """Paths of everything that kept checkpoints were made from."""
    return {node.path for file in lineages for node in read_lineage(file).nodes.values()}


def unneeded(pipelines: Sequence[Pipeline], committed: set[str], lineages: Iterable[Path]) -> list[Stored]:
    """Find outputs that are needed by none of these pipelines over one store, nor by a commit, run or checkpoint.

    Args:
        committed: paths that some commit's ledger names.
        lineages: files beside the checkpoints that are kept.
    """
    found = stored(pipelines[0])
    everything = list(found.values())
    keep = committed | needed_by_runs(pipelines[0], everything) | needed_by_checkpoints(lineages)
    keep = keep.union(*(needed(pipeline, everything) for pipeline in pipelines))
    # the scratch of an output that is not finished; work that is divided into parts has no group in its scratch
    wanted = {path for path in keep if path not in found or not found[path].finished}
    keep |= {f"{SCRATCH}/{match[0]}" for path in wanted if (match := _UNGROUPED.match(path))}
    return [each for path, each in sorted(found.items()) if path not in keep]


def delete(pipeline: Pipeline, outputs: Iterable[Stored]) -> None:
    """Delete outputs, each only while no process computes it."""
    for each in outputs:
        with acquire(pipeline.storage, [each.path]):
            if each.scratch:
                pipeline.storage.delete_folder(each.path)
            else:
                ArtifactFolder(pipeline.storage, each.asset, each.fingerprint, each.group).discard()

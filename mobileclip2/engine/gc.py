"""Find and delete the stored outputs that no profile, commit, run or kept checkpoint needs."""

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
from mobileclip2.store.lease import acquire, payloads
from mobileclip2.store.scratch import FOLDER as SCRATCH

_SCRATCH_KEY = re.compile(rf"^{re.escape(SCRATCH)}/(?P<asset>.+)/(?P<fingerprint>[0-9a-f]{{16}})/")
_OUTPUT_KEY = re.compile(r"^(?P<asset>.+)/(?P<fingerprint>[0-9a-f]{16})(?:/(?P<group>[^/]+))?/[^/]+$")
_WITHOUT_GROUP = re.compile(r"^.+?/[0-9a-f]{16}(?=/|$)")


@dataclass
class Stored:
    """One finished or unfinished output in the store."""

    asset: str
    fingerprint: str
    group: str | None
    files: int = 0
    bytes: int = 0
    finished: bool = False
    scratch: bool = False
    """whether these are scratch files, from which a killed run continues"""

    @property
    def path(self) -> str:
        """Return the path of the output, relative to the store."""
        path = f"{self.asset}/{self.fingerprint}" + (f"/{self.group}" if self.group else "")
        return f"{SCRATCH}/{path}" if self.scratch else path


def stored(pipeline: Pipeline) -> dict[str, Stored]:
    """Return every output in the store by its path."""
    found: dict[str, Stored] = {}
    for key, size in pipeline.storage.list(""):
        if match := _SCRATCH_KEY.match(key):
            each = Stored(match["asset"], match["fingerprint"], None, scratch=True)
        elif match := None if key.startswith(".") else _OUTPUT_KEY.match(key):
            each = Stored(match["asset"], match["fingerprint"], match["group"])
        if match:
            each = found.setdefault(each.path, each)
            each.files += 1
            each.bytes += size
            each.finished |= key.endswith("/manifest.json")
    return found


def needed(pipeline: Pipeline, found: Iterable[Stored] = ()) -> set[str]:
    """Return the paths of the finished and unfinished outputs of a profile.

    A slice has no fingerprint while one of its inputs is missing. The recomputed input can have the same bytes, which makes
    a stored output current again. For such a slice, every output in ``found`` is needed.
    """
    paths = set()
    stored_paths: dict[tuple[str, str | None], list[str]] = {}
    for each in found:
        stored_paths.setdefault((each.asset, each.group), []).append(each.path)
    for asset in pipeline.graph.values():
        for slice_, group in pipeline.slices(asset):
            task = pipeline.task_for(asset, slice_, group)
            paths.update([task.output.prefix] if task else stored_paths.get((asset.key, group), []))
    return paths


def needed_by_runs(pipeline: Pipeline, found: Sequence[Stored]) -> set[str]:
    """Return the paths that the profiles of all running processes need."""
    paths: set[str] = set()
    for payload in payloads(pipeline.storage):
        running = json.loads(payload)
        paths |= needed(Pipeline(parse(running["text"], origin=Path(running["folder"]) / "profile.yaml")), found)
    return paths


def lineages_in(folder: Path) -> list[Path]:
    """Find the lineage of every checkpoint in a folder.

    Raises:
        UserError: the folder contains no lineage.
    """
    lineages = sorted(folder.rglob(LINEAGE))
    if not lineages:
        raise UserError(f"{folder}: this folder contains no {LINEAGE}; pass a folder of checkpoints to --keep")
    return lineages


def needed_by_checkpoints(lineages: Iterable[Path]) -> set[str]:
    """Return the paths of all outputs in these lineages."""
    return {node.path for file in lineages for node in read_lineage(file).nodes.values()}


def unneeded(pipelines: Sequence[Pipeline], committed: set[str], lineages: Iterable[Path]) -> list[Stored]:
    """Find the outputs that no pipeline, commit, run or kept checkpoint needs. All pipelines share one store.

    Args:
        committed: paths that the ledgers of commits name.
        lineages: lineage files of the kept checkpoints.
    """
    found = stored(pipelines[0])
    everything = list(found.values())
    keep = committed | needed_by_runs(pipelines[0], everything) | needed_by_checkpoints(lineages)
    keep = keep.union(*(needed(pipeline, everything) for pipeline in pipelines))
    # an unfinished output continues from its scratch files, whose paths have no group
    unfinished = {path for path in keep if path not in found or not found[path].finished}
    keep |= {f"{SCRATCH}/{match[0]}" for path in unfinished if (match := _WITHOUT_GROUP.match(path))}
    return [each for path, each in sorted(found.items()) if path not in keep]


def delete(pipeline: Pipeline, outputs: Iterable[Stored]) -> None:
    """Delete outputs. Wait for the processes that compute them."""
    for each in outputs:
        with acquire(pipeline.storage, [each.path]):
            if each.scratch:
                pipeline.storage.delete_folder(each.path)
            else:
                ArtifactFolder(pipeline.storage, each.asset, each.fingerprint, each.group).discard()

"""Find and delete the stored outputs that no profile, commit, run or kept checkpoint needs."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobileclip2.config.profile import parse
from mobileclip2.engine.lineage import LINEAGE, read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import StoreError, UserError
from mobileclip2.store import Storage
from mobileclip2.store.artifact import RECORD
from mobileclip2.store.lease import DELETING, USES_NOTHING, Held, Lease, acquire, all_held, is_held, sweep
from mobileclip2.store.scratch import FOLDER as SCRATCH

logger = logging.getLogger(__name__)

COLLECTING = "gc/collecting"
"""lease of the only gc that deletes in a store"""

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


def stored(pipeline: Pipeline, prefix: str = "") -> dict[str, Stored]:
    """Return every output under a prefix of the store by its path."""
    found: dict[str, Stored] = {}
    for key, size in pipeline.storage.list(prefix):
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


class NeededByRuns:
    """The paths that the profiles of all running processes need, among some outputs."""

    def __init__(self, storage: Storage, found: Sequence[Stored]) -> None:
        self._storage, self._found = storage, found
        self._known: dict[str, set[str]] = {}

    def paths(self) -> set[str]:
        """Read all leases and return the paths. Only a lease that is new since the last call is evaluated.

        Raises:
            StoreError: what a process needs is unknown.
        """
        paths: set[str] = set()
        for held in all_held(self._storage):
            if held.payload != USES_NOTHING:
                # a process that ends gives up its lease, and a new one can need other paths with the same profile
                if held.payload is None or held.holder not in self._known:
                    self._known[held.holder] = self._needed(held)
                paths |= self._known[held.holder]
        return paths

    def _needed(self, held: Held) -> set[str]:
        try:
            if held.payload is None:
                raise ValueError("it has no readable payload")
            running = json.loads(held.payload)
            profile = parse(running["text"], origin=Path(running["folder"]) / "profile.yaml")
            return needed(Pipeline(profile), self._found)
        except (UserError, ValueError, TypeError, KeyError, RecursionError) as error:
            named = f" of '{held.name}'" if held.name else ""
            raise StoreError(
                f"{held.url}: a process holds this lease{named}, and gc cannot tell what the process needs ({error}); "
                "nothing more is deleted; wait until the process ends and run gc again"
            ) from error


def lineages_in(folder: Path) -> list[Path]:
    """Find the lineage of every checkpoint in a folder.

    Raises:
        UserError: the folder contains no lineage.
    """
    lineages = sorted(folder.rglob(LINEAGE))
    if not lineages:
        raise UserError(f"{folder}: this folder contains no {LINEAGE}; pass a folder of checkpoints to --keep")
    return lineages


def unneeded(pipelines: Sequence[Pipeline], committed: set[str], lineages: Iterable[Path]) -> list[Stored]:
    """Find the outputs that no pipeline, commit, run or kept checkpoint needs. All pipelines share one store.

    ``committed`` are the paths that the ledgers of commits name, and ``lineages`` the files beside the kept checkpoints.
    """
    found = stored(pipelines[0])
    everything = list(found.values())
    keep = committed | NeededByRuns(pipelines[0].storage, everything).paths()
    keep |= {node.path for file in lineages for node in read_lineage(file).nodes.values()}
    keep = keep.union(*(needed(pipeline, everything) for pipeline in pipelines))
    # an unfinished output continues from its scratch files, whose paths have no group
    unfinished = {path for path in keep if path not in found or not found[path].finished}
    keep |= _scratch_of(unfinished)
    return [each for path, each in sorted(found.items()) if path not in keep]


def _scratch_of(paths: Iterable[str]) -> set[str]:
    return {f"{SCRATCH}/{match[0]}" for path in paths if (match := _WITHOUT_GROUP.match(path))}


def delete(pipeline: Pipeline, outputs: Sequence[Stored]) -> list[Stored]:
    """Delete outputs, wait for another process that deletes, and return the deleted outputs.

    An output is kept if it changed since it was found, if a process computes it, or if a run that began meanwhile needs it.

    Raises:
        StoreError: what a process needs is unknown.
        LeaseLost: this process was stopped for too long.
    """
    storage, deleted = pipeline.storage, []
    with acquire(
        storage, [COLLECTING], USES_NOTHING, lambda: logger.warning("another gc deletes here, waiting for it")
    ):
        sweep(storage)
        _sweep_leftovers(storage)
        runs = NeededByRuns(storage, outputs)
        for each in outputs:
            if is_held(storage, each.path):
                continue
            # while DELETING is held, no run that registers now decides what is stored, see Pipeline.run_lease
            with (
                acquire(storage, [each.path], USES_NOTHING) as output,
                acquire(storage, [DELETING], USES_NOTHING) as lease,
            ):
                keep = runs.paths()
                keep |= _scratch_of(keep)
                if each.path not in keep and stored(pipeline, f"{each.path}/").get(each.path) == each:
                    _delete(storage, each.path, Lease("", output, lease))
                    deleted.append(each)
    return deleted


def _sweep_leftovers(storage: Storage) -> None:
    """Delete what a process left beside a manifest that it had written when it was killed: hashes and temporary files."""
    keys = [key for key, _ in storage.list("") if not key.startswith(".")]
    finished = {key.rpartition("/")[0] for key in keys if key.endswith("/manifest.json")}
    for key in keys:
        if key.endswith(RECORD) and key.rpartition("/")[0] in finished:
            storage.delete(key)
    for folder in sorted(finished):
        if not is_held(storage, folder):
            with acquire(storage, [folder], USES_NOTHING):  # a process that computes it again must not lose its files
                storage.delete_temporary(folder)


def _delete(storage: Storage, path: str, lease: Lease) -> None:
    keys = [key for key, _ in storage.list(f"{path}/")]
    manifest = f"{path}/manifest.json"
    # The manifest goes first, so that an interrupted deletion leaves no output that looks complete.
    for key in sorted(keys, key=lambda key: key != manifest):
        lease.check()
        storage.delete(key)
    storage.delete_folder(path)

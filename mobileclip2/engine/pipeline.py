"""A profile over its store: which parts of which assets exist, which are missing, and the handing of work to a stage."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset, Graph, Input, Slice, build_graph
from mobileclip2.engine.source_inventory import Shard, SourceInventory
from mobileclip2.engine.stage import load_stage
from mobileclip2.errors import DamagedOutput, StoreError, UserError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.progress import Progress, silent
from mobileclip2.store import ArtifactFolder, Manifest, ManifestSummary, Storage, open_storage
from mobileclip2.store.lease import acquire
from mobileclip2.store.manifest import identify
from mobileclip2.store.manifest_cache import ManifestCache
from mobileclip2.store.scratch import FOLDER as SCRATCH
from mobileclip2.store.scratch import Scratch
from mobileclip2.store.stat_cache import cache_folder

if TYPE_CHECKING:
    from mobileclip2.engine.lineage import Lineage

logger = logging.getLogger(__name__)


@dataclass
class Artifact:
    """A finished output, as a stage reads it."""

    head: ManifestSummary
    output: ArtifactFolder

    @property
    def group(self) -> str | None:
        """Return the group of the output, or None if the asset has no groups."""
        return self.head.group

    @cached_property
    def manifest(self) -> Manifest:
        """Return the manifest.

        Raises:
            DamagedOutput: the manifest is gone.
        """
        manifest = self.output.manifest()
        if manifest is None:
            raise DamagedOutput(f"{self.output.storage.url}/{self.output.prefix}: its manifest is gone; run again")
        return manifest

    @cached_property
    def _sizes(self) -> dict[str, int]:
        return {file.name: file.size for file in self.manifest.files}

    def fetch(self, name: str) -> Path:
        """Return a local file with the bytes of ``name``.

        Raises:
            DamagedOutput: the file is gone, or was cut off since the plan looked at it.
        """
        path = self.output.fetch(name)
        size = path.stat().st_size
        if size != self._sizes.get(name, size):
            raise DamagedOutput(
                f"{self.output.storage.url}/{self.output.key(name)}: it differs from its manifest since the plan looked at it; "
                "run again, it is computed anew"
            )
        return path


@dataclass
class Task:
    """One missing part of an asset for one group: what it declares, what it reads, where it writes."""

    asset: Asset
    part: Slice
    group: str | None
    fingerprint: str
    output: ArtifactFolder
    inputs: dict[str, list[Artifact]]
    versions: dict[str, str]

    def only(self, role: str) -> Artifact:
        """Return the single output of a role that is not spread over parts or groups."""
        (read,) = self.inputs[role]
        return read

    def close(
        self,
        names: list[str],
        *,
        samples: int,
        skip_reasons: dict[str, int] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Manifest:
        """Write the manifest over the named files, which are already in place."""
        reasons = dict(sorted((skip_reasons or {}).items()))
        manifest = Manifest(
            asset=self.asset.key,
            part=self.part.name,
            group=self.group,
            fingerprint=self.fingerprint,
            code_version=self.asset.code_version,
            declared=self.part.declared,
            inputs=self.versions,
            samples=samples,
            skipped=sum(reasons.values()),
            skip_reasons=reasons,
            facts=facts or {},
            files=self.output.describe(names),
        )
        self.output.close(manifest)
        return manifest


@dataclass
class TaskBatch:
    """What a stage is asked to do: the missing parts of one asset for one group."""

    pipeline: Pipeline
    asset: Asset
    group: str | None
    parts: list[Task]
    progress: Progress
    listed: list[Shard] | None = None
    """the shards, where somebody listed them already"""
    lineage: Lineage | None = None
    """of the parts, where somebody found it out already"""

    @property
    def profile(self) -> Profile:
        """Return the profile of the pipeline."""
        return self.pipeline.profile

    @property
    def contents(self) -> SourceInventory:
        """Return the outside inputs of the pipeline."""
        return self.pipeline.contents

    @property
    def shards(self) -> list[Shard]:
        """The input tars at hand: those of the group, or of the caption corpus."""
        if self.listed is not None:
            return self.listed
        if self.group is not None:
            return self.contents.group_shards(self.group)
        return self.contents.corpus_shards(self.asset.name)

    @cached_property
    def kept(self) -> Scratch:
        """What survives a killed run of work that is not divided by shards."""
        (part,) = self.parts
        place = f"{self.asset.key}/{part.fingerprint}"
        return Scratch(self.pipeline.scratch / place, self.pipeline.storage, place)

    @property
    def scratch(self) -> Path:
        """Its folder."""
        return self.kept.folder


class Executor(Protocol):
    """Where the work of stages is done: here, in more processes, on a cluster. The stages do not know."""

    def run(self, work: TaskBatch) -> float:
        """Do the work with its manifests, and return the seconds of one device that it took.

        Raises:
            UserError: the stage refused its input, or the work could not be done there.
        """


class InProcessExecutor:
    """Computes in this process."""

    def run(self, work: TaskBatch) -> float:
        """Do the work in this process, and return the seconds that it took."""
        started = time.monotonic()
        load_stage(work.asset.stage)(work)
        return time.monotonic() - started


@dataclass
class MaterializeResult:
    """An asset for one group after materialization."""

    asset: Asset
    group: str | None
    heads: dict[str, ManifestSummary]
    """by part"""
    computed: list[str]
    """names of the parts that were computed now; the others existed"""
    seconds: float

    @property
    def data_version(self) -> str:
        """Return the data version of the asset for the group, over all its parts."""
        if len(self.heads) == 1:
            return next(iter(self.heads.values())).data_version
        return fingerprint({name: head.data_version for name, head in self.heads.items()})

    @property
    def samples(self) -> int:
        """Return the samples of all parts together."""
        return sum(head.samples for head in self.heads.values())

    @property
    def skip_reasons(self) -> dict[str, int]:
        """Count the skipped samples of all parts by reason."""
        reasons: dict[str, int] = {}
        for head in self.heads.values():
            for reason, count in head.skip_reasons.items():
                reasons[reason] = reasons.get(reason, 0) + count
        return reasons


class Pipeline:
    """One profile, its graph, its outside inputs and its store."""

    def __init__(self, profile: Profile, compute: Executor | None = None) -> None:
        self.profile = profile
        self.compute: Executor = compute or InProcessExecutor()
        self.graph: Graph = build_graph(profile)
        self.contents = SourceInventory(profile, lambda: self.storage)
        self.damaged: dict[tuple[str, str, str | None], str] = {}
        """(asset, part, group) -> what is wrong with its stored bytes; it counts as missing"""
        self._heads: dict[tuple[str, str, str | None], ManifestSummary | None] = {}
        self.heads = ManifestCache()

    @cached_property
    def storage(self) -> Storage:
        """Return the storage that the profile names."""
        return open_storage(self.profile.locate(self.profile.store))

    @property
    def scratch(self) -> Path:
        """Where unfinished work that must survive a kill lies: beside a local store, else in the cache."""
        if self.storage.url.startswith("s3://"):
            return cache_folder() / "scratch" / self.profile.name
        return Path(self.storage.url) / SCRATCH

    @property
    def note(self) -> str:
        """What a lease says of its holder: the profile, from which all that it needs can be found."""
        return json.dumps({"folder": self.profile.folder, "text": self.profile.text})

    def groups(self, asset: Asset) -> list[str | None]:
        """Return what an asset is computed by: groups of shards, its parts, or None for all of it at once."""
        if asset.by_part:
            return list(asset.parts)
        return list(self.profile.group_names) if asset.grouped else [None]

    def forget(self, *, every_byte: bool = False) -> None:
        """Clear the caches of the store and of outside inputs, to see changes that others made.

        With ``every_byte`` whatever is looked at in the store from now on is hashed.
        """
        self._heads.clear()
        self.damaged.clear()
        self.heads = ManifestCache(every_byte=every_byte)
        self.contents = SourceInventory(self.profile, lambda: self.storage)

    def sources(
        self, asset: Asset, group: str | None, role: str, source: Input
    ) -> Iterator[tuple[str, Asset, ManifestSummary | None, str | None]]:
        """(place, upstream asset, its head, its group) of every output behind a role; a place is a role made unique."""
        upstream = self.graph[source.asset]
        names = [source.part] if source.part else list(upstream.parts)
        groups = [group] if upstream.grouped and asset.grouped else self.groups(upstream)
        for upstream_group in groups:
            for name in names:
                place = [role, name if len(names) > 1 else "", upstream_group if len(groups) > 1 else ""]
                head = self.head(upstream, upstream.parts[name], upstream_group)
                yield "/".join(filter(None, place)), upstream, head, upstream_group

    def part_work(self, asset: Asset, part: Slice, group: str | None) -> Task | None:
        """Return what computing a part would read and write, or None while an input is missing."""
        inputs: dict[str, list[Artifact]] = {}
        versions: dict[str, str] = {}
        for role, source in part.inputs.items():
            inputs[role] = []
            for place, upstream, head, upstream_group in self.sources(asset, group, role, source):
                if head is None:
                    return None
                inputs[role].append(Artifact(head, self._output(upstream, head.fingerprint, upstream_group)))
                versions[place] = head.data_version
        for role, external in part.externals.items():
            versions[role] = self.contents.digest(external, group)
        identity = identify(asset.key, asset.code_version, part.declared, versions)
        return Task(asset, part, group, identity, self._output(asset, identity, group), inputs, versions)

    def _output(self, asset: Asset, identity: str, group: str | None) -> ArtifactFolder:
        return ArtifactFolder(self.storage, asset.key, identity, group)

    def head(self, asset: Asset, part: Slice, group: str | None) -> ManifestSummary | None:
        """Return the head that the present profile, code and inputs call for, or None if it must still be computed.

        Stored bytes that cannot be trusted count as missing and are named in :attr:`damaged`.
        """
        key = (asset.key, part.name, group)
        if key not in self._heads:
            work = self.part_work(asset, part, group)
            self._heads[key] = self._look(work) if work else None
        return self._heads[key]

    def _look(self, work: Task) -> ManifestSummary | None:
        key = (work.asset.key, work.part.name, work.group)
        self.damaged.pop(key, None)
        try:
            return self.heads.of(work.output)
        except DamagedOutput as error:
            self.damaged[key] = str(error)
            return None

    def missing(self, asset: Asset, group: str | None) -> list[str]:
        """Names of the parts that are not there."""
        return [name for name, part in asset.parts_of(group).items() if self.head(asset, part, group) is None]

    def stale(self) -> Iterator[tuple[Asset, str | None]]:
        """(asset, group) pairs with something missing, in an order that can be computed."""
        for asset in self.graph.values():
            for group in self.groups(asset):
                if self.missing(asset, group):
                    yield asset, group

    def read(self, key: str, group: str | None = None) -> list[Artifact]:
        """Every finished part of an asset, of one group or over all of them.

        Raises:
            UserError: something of it is missing.
        """
        asset = self.graph[key]
        reads = []
        for each in [group] if group else self.groups(asset):
            for part in asset.parts_of(each).values():
                head = self.head(asset, part, each)
                if head is None:
                    place = f"{key}{f' [{each}]' if each else ''}"
                    raise UserError(f"{place}: not materialized yet; run 'mobileclip2 run'")
                reads.append(Artifact(head, self._output(asset, head.fingerprint, each)))
        return reads

    def materialize(self, key: str, group: str | None = None, progress: Progress = silent) -> MaterializeResult:
        """Compute the missing parts of an asset for one group, and return all parts.

        Raises:
            UserError: an input is not there, or the stage refused its input.
        """
        asset = self.graph[key]
        started = time.monotonic()
        self._drop_lineage(asset, group)
        works = []
        for part in asset.parts_of(group).values():
            work = self.part_work(asset, part, group)
            if work is None:
                absent = [up for up in asset.upstream if self._absent(up, asset, group)]
                raise UserError(
                    f"{key}{f' [{group}]' if group else ''}: {', '.join(absent)} must be materialized first"
                )
            works.append(work)
        self.contents.share()
        computed, device_seconds = self._compute(works, progress)
        heads = {}
        for work in works:
            head = self._look(work)
            if head is None:
                raise StoreError(f"{self.storage.url}/{work.output.prefix}: the stage ended without a manifest")
            heads[work.part.name] = self._heads[(key, work.part.name, group)] = head
        seconds = time.monotonic() - started
        done = MaterializeResult(asset, group, heads, computed, seconds)
        if computed:
            self._log_time(done, device_seconds)
        return done

    def _compute(self, works: list[Task], progress: Progress) -> tuple[list[str], float]:
        """Compute the missing parts of an asset, unless another run does.

        Returns:
            Names of the parts that it computed, and the seconds of one device that this took.
        """
        todo = [work for work in works if self._look(work) is None]
        if not todo:
            return [], 0.0
        place = todo[0].asset.key + (f" [{todo[0].group}]" if todo[0].group else "")
        logger.debug("%s: %s", place, ", ".join(work.part.name for work in todo))
        with acquire(
            self.storage,
            [work.output.prefix for work in todo],
            self.note,
            waiting=lambda: logger.warning("%s: another run computes this now, waiting for it", place),
        ):
            todo = [work for work in todo if self._look(work) is None]
            for work in todo:
                if damage := self.damaged.get((work.asset.key, work.part.name, work.group)):
                    logger.warning("%s: computed anew: %s", place, damage)
                    work.output.discard()
            seconds = self.compute.run(TaskBatch(self, todo[0].asset, todo[0].group, todo, progress)) if todo else 0.0
        return [work.part.name for work in todo], seconds

    def take_part(self, key: str) -> None:
        """Trains an ungrouped asset as one of several processes that is not the first: it computes and stores nothing."""
        asset = self.graph[key]
        works = [self.part_work(asset, part, None) for part in asset.parts.values()]
        todo = [work for work in works if work and self._look(work) is None]
        if todo:
            load_stage(asset.stage)(TaskBatch(self, asset, None, todo, silent))

    def _absent(self, upstream_key: str, asset: Asset, group: str | None) -> bool:
        upstream = self.graph[upstream_key]
        groups = [group] if upstream.grouped and asset.grouped else self.groups(upstream)
        return any(self.missing(upstream, each) for each in groups)

    def _drop_lineage(self, asset: Asset, group: str | None) -> None:
        """Forgets what hangs on an asset that is about to change."""
        downstream = {asset.key}
        for other in self.graph.values():
            if downstream.intersection(other.upstream):
                downstream.add(other.key)
        for key in [key for key in self._heads if key[0] in downstream]:
            if key[2] == group or group is None or key[2] is None:
                del self._heads[key]

    def _log_time(self, done: MaterializeResult, seconds: float) -> None:
        """Log the time beside the outputs. A manifest must not depend on it."""
        samples = sum(done.heads[name].samples for name in done.computed)
        record = {
            "group": done.group,
            "parts": done.computed,
            "samples": samples,
            "seconds": round(seconds, 3),
        }
        self.storage.append(_times(done.asset.key), f"{json.dumps(record)}\n".encode())

    def times(self, key: str) -> list[dict[str, Any]]:
        """Seconds of one device that each materialization of an asset took."""
        try:
            lines = self.storage.read(_times(key)).decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        times = []
        for line in lines:
            with suppress(ValueError):  # several may have appended at once, or one been killed
                times.append(json.loads(line))
        return times


def _times(key: str) -> str:
    return f"{SCRATCH}/times/{key.replace('/', '.')}.jsonl"

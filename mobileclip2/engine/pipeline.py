"""A profile and its store: find the parts of each asset that exist or are missing, and compute the missing ones."""

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
from mobileclip2.store.user_cache import cache_folder

if TYPE_CHECKING:
    from mobileclip2.engine.lineage import Lineage

logger = logging.getLogger(__name__)


@dataclass
class Artifact:
    """A finished output that a stage reads."""

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
            DamagedOutput: the file is gone, or its size differs from the manifest.
        """
        path = self.output.fetch(name)
        size = path.stat().st_size
        if size != self._sizes.get(name, size):
            raise DamagedOutput(
                f"{self.output.storage.url}/{self.output.key(name)}: it no longer matches its manifest; "
                "run again to recompute it"
            )
        return path


@dataclass
class Task:
    """One missing part of an asset for one group, with its declared fields, its inputs and its output folder."""

    asset: Asset
    part: Slice
    group: str | None
    fingerprint: str
    output: ArtifactFolder
    inputs: dict[str, list[Artifact]]
    versions: dict[str, str]

    def only(self, role: str) -> Artifact:
        """Return the output of a role that has exactly one."""
        (artifact,) = self.inputs[role]
        return artifact

    def commit(
        self,
        names: list[str],
        *,
        samples: int,
        skip_reasons: dict[str, int] | None = None,
        facts: dict[str, Any] | None = None,
    ) -> Manifest:
        """Write the manifest. The named files must already be in the output folder."""
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
    """The missing parts of one asset for one group, which a stage computes together."""

    pipeline: Pipeline
    asset: Asset
    group: str | None
    tasks: list[Task]
    progress: Progress
    listed: list[Shard] | None = None
    """the input shards, if the task spec lists them"""
    lineage: Lineage | None = None
    """lineage of the parts, if the task spec contains it"""

    @property
    def profile(self) -> Profile:
        """Return the profile of the pipeline."""
        return self.pipeline.profile

    @property
    def contents(self) -> SourceInventory:
        """Return the inventory of the inputs outside the store."""
        return self.pipeline.contents

    @property
    def shards(self) -> list[Shard]:
        """Return the input tars of the group, or of the caption corpus."""
        if self.listed is not None:
            return self.listed
        if self.group is not None:
            return self.contents.group_shards(self.group)
        return self.contents.corpus_shards(self.asset.name)

    @cached_property
    def scratch_store(self) -> Scratch:
        """Return the scratch files from which a killed run continues. The batch must have exactly one task."""
        (task,) = self.tasks
        relative = f"{self.asset.key}/{task.fingerprint}"
        return Scratch(self.pipeline.scratch / relative, self.pipeline.storage, relative)

    @property
    def scratch(self) -> Path:
        """Return the local folder of :attr:`scratch_store`."""
        return self.scratch_store.folder


class Executor(Protocol):
    """Runs task batches in this process, in several processes or on a cluster. Stages do not depend on it."""

    def run(self, batch: TaskBatch) -> float:
        """Compute a batch, write its manifests and return the device-seconds.

        Raises:
            UserError: the stage rejects its input, or the executor fails.
        """


class InProcessExecutor:
    """Computes in this process."""

    def run(self, batch: TaskBatch) -> float:
        """Compute a batch and return the seconds."""
        started = time.monotonic()
        load_stage(batch.asset.stage)(batch)
        return time.monotonic() - started


@dataclass
class MaterializeResult:
    """An asset for one group after materialization."""

    asset: Asset
    group: str | None
    heads: dict[str, ManifestSummary]
    """manifest summaries by part"""
    computed: list[str]
    """names of the parts that this materialization computed"""
    seconds: float

    @property
    def data_version(self) -> str:
        """Return the data version of the asset for the group, which covers all parts."""
        if len(self.heads) == 1:
            return next(iter(self.heads.values())).data_version
        return fingerprint({name: head.data_version for name, head in self.heads.items()})

    @property
    def samples(self) -> int:
        """Return the number of samples of all parts."""
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
    """One profile with its graph, its source inventory and its store."""

    def __init__(self, profile: Profile, compute: Executor | None = None) -> None:
        self.profile = profile
        self.compute: Executor = compute or InProcessExecutor()
        self.graph: Graph = build_graph(profile)
        self.contents = SourceInventory(profile, lambda: self.storage)
        self.damaged: dict[tuple[str, str, str | None], str] = {}
        """(asset, part, group) -> description of the damage; a damaged part counts as missing"""
        self._current: dict[tuple[str, str, str | None], ManifestSummary | None] = {}
        self.summaries = ManifestCache()

    @cached_property
    def storage(self) -> Storage:
        """Return the store of the profile."""
        return open_storage(self.profile.locate(self.profile.store))

    @property
    def scratch(self) -> Path:
        """Return the folder of unfinished work: inside a local store, otherwise in the cache."""
        if self.storage.url.startswith("s3://"):
            return cache_folder() / "scratch" / self.profile.name
        return Path(self.storage.url) / SCRATCH

    @property
    def note(self) -> str:
        """Return the payload of this process's locks: the profile, from which gc derives the outputs to keep."""
        return json.dumps({"folder": self.profile.folder, "text": self.profile.public_text})

    def groups(self, asset: Asset) -> list[str | None]:
        """Return the partition keys of an asset: shard groups, part names, or None for an unpartitioned asset."""
        if asset.by_part:
            return list(asset.parts)
        return list(self.profile.group_names) if asset.grouped else [None]

    def forget(self, *, every_byte: bool = False) -> None:
        """Clear the caches of manifests and source files, so that changes by other processes are visible.

        With ``every_byte``, later reads of manifests hash every stored file.
        """
        self._current.clear()
        self.damaged.clear()
        self.summaries = ManifestCache(every_byte=every_byte)
        self.contents = SourceInventory(self.profile, lambda: self.storage)

    def sources(
        self, asset: Asset, group: str | None, role: str, source: Input
    ) -> Iterator[tuple[str, Asset, ManifestSummary | None, str | None]]:
        """Yield (input name, upstream asset, manifest summary, group) of each output that a role reads.

        The input name is the role, followed by the part and group where several outputs share the role.
        """
        upstream = self.graph[source.asset]
        names = [source.part] if source.part else list(upstream.parts)
        groups = [group] if upstream.grouped and asset.grouped else self.groups(upstream)
        for upstream_group in groups:
            for name in names:
                components = [role, name if len(names) > 1 else "", upstream_group if len(groups) > 1 else ""]
                head = self.head(upstream, upstream.parts[name], upstream_group)
                yield "/".join(filter(None, components)), upstream, head, upstream_group

    def task_for(self, asset: Asset, part: Slice, group: str | None) -> Task | None:
        """Return the task that computes a part, or None while an input is missing."""
        inputs: dict[str, list[Artifact]] = {}
        versions: dict[str, str] = {}
        for role, source in part.inputs.items():
            inputs[role] = []
            for input_name, upstream, head, upstream_group in self.sources(asset, group, role, source):
                if head is None:
                    return None
                inputs[role].append(Artifact(head, self._output(upstream, head.fingerprint, upstream_group)))
                versions[input_name] = head.data_version
        for role, external in part.externals.items():
            versions[role] = self.contents.digest(external, group)
        identity = identify(asset.key, asset.code_version, part.declared, versions)
        return Task(asset, part, group, identity, self._output(asset, identity, group), inputs, versions)

    def _output(self, asset: Asset, identity: str, group: str | None) -> ArtifactFolder:
        return ArtifactFolder(self.storage, asset.key, identity, group)

    def head(self, asset: Asset, part: Slice, group: str | None) -> ManifestSummary | None:
        """Return the manifest summary of a part, or None if the part is missing.

        The profile, the code version and the inputs determine its fingerprint. Damaged outputs count as missing;
        :attr:`damaged` describes them.
        """
        key = (asset.key, part.name, group)
        if key not in self._current:
            task = self.task_for(asset, part, group)
            self._current[key] = self._read_summary(task) if task else None
        return self._current[key]

    def _read_summary(self, task: Task) -> ManifestSummary | None:
        key = (task.asset.key, task.part.name, task.group)
        self.damaged.pop(key, None)
        try:
            return self.summaries.of(task.output)
        except DamagedOutput as error:
            self.damaged[key] = str(error)
            return None

    def missing(self, asset: Asset, group: str | None) -> list[str]:
        """Return the names of the missing parts."""
        return [name for name, part in asset.parts_of(group).items() if self.head(asset, part, group) is None]

    def stale(self) -> Iterator[tuple[Asset, str | None]]:
        """Yield the (asset, group) pairs with missing parts in topological order."""
        for asset in self.graph.values():
            for group in self.groups(asset):
                if self.missing(asset, group):
                    yield asset, group

    def read(self, key: str, group: str | None = None) -> list[Artifact]:
        """Return every finished part of an asset, for one group or for all groups.

        Raises:
            UserError: a part is missing.
        """
        asset = self.graph[key]
        artifacts = []
        for each in [group] if group else self.groups(asset):
            for part in asset.parts_of(each).values():
                head = self.head(asset, part, each)
                if head is None:
                    label = f"{key}{f' [{each}]' if each else ''}"
                    raise UserError(f"{label}: not materialized yet; run 'mobileclip2 run'")
                artifacts.append(Artifact(head, self._output(asset, head.fingerprint, each)))
        return artifacts

    def materialize(self, key: str, group: str | None = None, progress: Progress = silent) -> MaterializeResult:
        """Compute the missing parts of an asset for one group, and return all parts.

        Raises:
            UserError: an input is missing, or the stage rejects its input.
        """
        asset = self.graph[key]
        started = time.monotonic()
        self.invalidate_downstream(asset, group)
        tasks = []
        for part in asset.parts_of(group).values():
            task = self.task_for(asset, part, group)
            if task is None:
                absent = [up for up in asset.upstream if self._is_missing(up, asset, group)]
                raise UserError(
                    f"{key}{f' [{group}]' if group else ''}: {', '.join(absent)} must be materialized first"
                )
            tasks.append(task)
        self.contents.share()
        computed, device_seconds = self._compute(tasks, progress)
        heads = {}
        for task in tasks:
            head = self._read_summary(task)
            if head is None:
                raise StoreError(f"{self.storage.url}/{task.output.prefix}: the stage ended without a manifest")
            heads[task.part.name] = self._current[(key, task.part.name, group)] = head
        seconds = time.monotonic() - started
        done = MaterializeResult(asset, group, heads, computed, seconds)
        if computed:
            self._log_time(done, device_seconds)
        return done

    def _compute(self, tasks: list[Task], progress: Progress) -> tuple[list[str], float]:
        """Compute the missing parts of an asset, or wait for another run that computes them.

        Returns:
            Names of the parts that this run computed, and the device-seconds.
        """
        todo = [task for task in tasks if self._read_summary(task) is None]
        if not todo:
            return [], 0.0
        label = todo[0].asset.key + (f" [{todo[0].group}]" if todo[0].group else "")
        logger.debug("%s: %s", label, ", ".join(task.part.name for task in todo))
        with acquire(
            self.storage,
            [task.output.prefix for task in todo],
            self.note,
            waiting=lambda: logger.warning("%s: another run computes this now, waiting for it", label),
        ):
            todo = [task for task in todo if self._read_summary(task) is None]
            for task in todo:
                if damage := self.damaged.get((task.asset.key, task.part.name, task.group)):
                    logger.warning("%s: recomputing a damaged output: %s", label, damage)
                    task.output.discard()
            seconds = self.compute.run(TaskBatch(self, todo[0].asset, todo[0].group, todo, progress)) if todo else 0.0
        return [task.part.name for task in todo], seconds

    def _is_missing(self, upstream_key: str, asset: Asset, group: str | None) -> bool:
        upstream = self.graph[upstream_key]
        groups = [group] if upstream.grouped and asset.grouped else self.groups(upstream)
        return any(self.missing(upstream, each) for each in groups)

    def invalidate_downstream(self, asset: Asset, group: str | None) -> None:
        """Remove an asset and everything downstream of it from the cache."""
        downstream = {asset.key}
        for other in self.graph.values():
            if downstream.intersection(other.upstream):
                downstream.add(other.key)
        for key in [key for key in self._current if key[0] in downstream]:
            if key[2] == group or group is None or key[2] is None:
                del self._current[key]

    def _log_time(self, done: MaterializeResult, seconds: float) -> None:
        """Append the time to a log in the store. A manifest must not depend on it."""
        samples = sum(done.heads[name].samples for name in done.computed)
        record = {
            "group": done.group,
            "parts": done.computed,
            "samples": samples,
            "seconds": round(seconds, 3),
        }
        self.storage.append(_times(done.asset.key), f"{json.dumps(record)}\n".encode())

    def times(self, key: str) -> list[dict[str, Any]]:
        """Return the logged times of an asset: group, parts, samples and device-seconds of each materialization."""
        try:
            lines = self.storage.read(_times(key)).decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        times = []
        for line in lines:
            with suppress(ValueError):  # a killed or concurrent writer can leave a broken line
                times.append(json.loads(line))
        return times


def _times(key: str) -> str:
    return f"{SCRATCH}/times/{key.replace('/', '.')}.jsonl"

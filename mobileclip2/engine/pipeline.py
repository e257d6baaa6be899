"""A profile and its store: find the slices of each asset that exist or are missing, and compute the missing ones."""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from pydantic import BaseModel, Field

from mobileclip2.asset_key import AssetKey, Partition, SliceKey
from mobileclip2.config.model import Model
from mobileclip2.config.profile import Profile
from mobileclip2.engine.graph import Asset, Graph, Slice, build_graph
from mobileclip2.engine.lineage import Lineage
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.source_inventory import SourceInventory
from mobileclip2.engine.stage import load_stage
from mobileclip2.errors import DamagedOutput, StoreError, UserError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.progress import Progress, Step, silent
from mobileclip2.store import Artifact, ArtifactFolder, Manifest, ManifestSummary, Storage, open_storage
from mobileclip2.store.lease import DELETING, Lease, acquire, wait_for_holder
from mobileclip2.store.manifest import identify
from mobileclip2.store.manifest_cache import ManifestCache
from mobileclip2.store.scratch import FOLDER as SCRATCH
from mobileclip2.store.scratch import Scratch
from mobileclip2.store.user_cache import cache_folder

logger = logging.getLogger(__name__)


class UpstreamOutput(NamedTuple):
    """One output, finished or missing, that a slice reads."""

    role: str
    name: str
    """name in the manifest: the role, followed by the slice and group where several outputs share the role"""
    asset: Asset
    slice: Slice
    group: str | None
    summary: ManifestSummary | None
    """None if the output is missing"""


@dataclass
class Task:
    """One missing slice of an asset for one group, with its declared fields, its inputs and its output folder."""

    asset: Asset
    slice: Slice
    group: str | None
    fingerprint: str
    output: ArtifactFolder
    inputs: dict[str, list[Artifact]]
    versions: dict[str, str]

    @property
    def key(self) -> SliceKey:
        """Return the identity of the slice."""
        return SliceKey(self.asset.key, self.slice.name, self.group)

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
            part=self.slice.name,
            group=self.group,
            fingerprint=self.fingerprint,
            code_version=self.asset.code_version,
            declared=self.slice.declared,
            inputs=self.versions,
            samples=samples,
            skipped=sum(reasons.values()),
            skip_reasons=reasons,
            facts=facts or {},
            files=self.output.describe(names),
        )
        self.output.commit(manifest)
        return manifest


class RunStatus:
    """What is known outside this process about its run. By default, the run ends with the process."""

    def is_ended(self) -> bool:
        """Return whether somebody has ended the run."""
        return False

    def will_resume(self) -> bool:
        """Return whether another process continues the run if this one is interrupted."""
        return False


@dataclass
class TaskBatch:
    """The missing slices of one asset for one group, which a stage computes together."""

    pipeline: Pipeline
    asset: Asset
    group: str | None
    tasks: list[Task]
    progress: Progress
    listed: list[Shard] | None = None
    """the input shards, if the task spec lists them"""
    lineage: Lineage | None = None
    """lineage of the slices, if the task spec contains it"""
    holder: str = ""
    """holder of the leases of the outputs, see :mod:`~mobileclip2.store.lease`"""
    run_status: RunStatus = field(default_factory=RunStatus)

    @property
    def profile(self) -> Profile:
        """Return the profile of the pipeline."""
        return self.pipeline.profile

    @property
    def inventory(self) -> SourceInventory:
        """Return the inventory of the inputs outside the store."""
        return self.pipeline.inventory

    @property
    def shards(self) -> list[Shard]:
        """Return the input tars of the group, or of the caption corpus."""
        if self.listed is not None:
            return self.listed
        return self.inventory.shards_of(self.asset.key, self.group)

    @cached_property
    def scratch_store(self) -> Scratch:
        """Return the scratch files from which a killed run continues. The batch must have exactly one task."""
        (task,) = self.tasks
        relative = f"{self.asset.key}/{task.fingerprint}"
        scratch = Scratch(self.pipeline.scratch / relative, self.pipeline.storage, relative)
        scratch.restore()
        return scratch

    @property
    def scratch(self) -> Path:
        """Return the local folder of :attr:`scratch_store`."""
        return self.scratch_store.folder


class Executor(Protocol):
    """Runs task batches in this process, in several processes or on a cluster. Stages do not depend on it."""

    def run(self, batch: TaskBatch) -> float:
        """Compute a batch, write its manifests and return the device-seconds.

        Raises:
            UserError: a stage rejects its input, or a worker reported another permanent error.
            ComputeError: a worker, a Job or a job failed.
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
    summaries: dict[str, ManifestSummary]
    """by slice"""
    computed: list[str]
    """names of the slices that this materialization computed"""
    seconds: float

    @property
    def data_version(self) -> str:
        """Return the data version of the asset for the group, which covers all slices."""
        versions = {name: summary.data_version for name, summary in self.summaries.items()}
        return fingerprint(versions) if len(versions) > 1 else next(iter(versions.values()))

    @property
    def samples(self) -> int:
        """Return the number of samples of all slices."""
        return sum(summary.samples for summary in self.summaries.values())

    @property
    def skip_reasons(self) -> dict[str, int]:
        """Count the skipped samples of all slices by reason."""
        return dict(sum((Counter(summary.skip_reasons) for summary in self.summaries.values()), Counter[str]()))


@dataclass(frozen=True)
class Verdict:
    """The result of a check of a materialization."""

    passed: bool
    description: str
    numbers: dict[str, float] = field(default_factory=dict)
    tables: dict[str, str] = field(default_factory=dict)
    """Markdown tables"""
    is_warning: bool = False
    """whether a failure means that the check could not compare everything"""


class Pipeline:
    """One profile with its graph, its source inventory and its store."""

    def __init__(self, profile: Profile, compute: Executor | None = None) -> None:
        self.profile = profile
        self.compute: Executor = compute or InProcessExecutor()
        self.graph: Graph = build_graph(profile)
        self._run: Lease | None = None
        """lease of :meth:`run_lease`"""
        self.forget()

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
    def lock_payload(self) -> str:
        """Return the payload of this process's locks: the profile, from which gc derives the outputs to keep."""
        return json.dumps({"folder": self.profile.folder, "text": self.profile.public_text})

    @contextmanager
    def run_lease(self) -> Iterator[Lease]:
        """Hold a lease during the block, so that gc keeps the outputs of this profile.

        Decisions from before the block are dropped, because gc may have deleted outputs since.
        """
        with self._registered() as lease:
            self._current.clear()
            yield lease

    @contextmanager
    def _registered(self) -> Iterator[Lease]:
        if self._run is not None:
            yield self._run
            return
        name = f"run/{socket.gethostname()}/{os.getpid()}/{uuid.uuid4().hex[:8]}"
        with acquire(self.storage, [name], self.lock_payload) as lease:
            # gc reads all leases while it holds this one, so it sees ours in all later deletions
            wait_for_holder(self.storage, DELETING)
            self._run = lease
            try:
                yield lease
            finally:
                self._run = None

    def groups(self, asset: Asset) -> list[str | None]:
        """Return the partition keys of an asset: shard groups, slice names, or None for an unpartitioned asset."""
        if asset.by_slice:
            return list(asset.slices)
        return list(self.profile.group_names) if asset.grouped else [None]

    def slices(self, asset: Asset, group: str | None = None) -> Iterator[tuple[Slice, str | None]]:
        """Yield each slice with each group, or with one group."""
        for each in [group] if group else self.groups(asset):
            for slice_ in asset.slices_of(each).values():
                yield slice_, each

    def is_current(self, key: str) -> bool:
        """Return whether the store has every output of an asset."""
        asset = self.graph[key]
        return not any(self.missing(asset, group) for group in self.groups(asset))

    def forget(self, *, every_byte: bool = False) -> None:
        """Clear the caches of manifests and source files, so that changes by other processes are visible.

        With ``every_byte``, later reads of manifests hash every stored file.
        """
        self.damaged: dict[SliceKey, str] = {}
        """descriptions of the damage; a damaged slice counts as missing"""
        self._current: dict[SliceKey, ManifestSummary | None] = {}
        self.manifest_cache = ManifestCache(every_byte=every_byte)
        self.inventory = SourceInventory(self.profile, lambda: self.storage)

    def upstream_outputs(self, asset: Asset, slice_: Slice, group: str | None) -> Iterator[UpstreamOutput]:
        """Yield the outputs that a slice reads for a group, in the order of its roles."""
        for role, source in slice_.inputs.items():
            upstream = self.graph[source.asset]
            names = [source.slice] if source.slice else list(upstream.slices)
            groups = [group] if upstream.grouped and asset.grouped else self.groups(upstream)
            for each in groups:
                for name in names:
                    components = [role, name if len(names) > 1 else "", each if len(groups) > 1 else ""]
                    input_name = "/".join(filter(None, components))
                    read = upstream.slices[name]
                    yield UpstreamOutput(role, input_name, upstream, read, each, self.summary(upstream, read, each))

    def task_for(self, asset: Asset, slice_: Slice, group: str | None) -> Task | None:
        """Return the task that computes a slice, or None while an input is missing."""
        inputs: dict[str, list[Artifact]] = {role: [] for role in slice_.inputs}
        versions: dict[str, str] = {}
        for source in self.upstream_outputs(asset, slice_, group):
            if source.summary is None:
                return None
            inputs[source.role].append(Artifact(self.storage, source.summary))
            versions[source.name] = source.summary.data_version
        for role, external in slice_.externals.items():
            versions[role] = self.inventory.digest(external, group)
        identity = identify(asset.key, asset.code_version, slice_.declared, versions)
        output = ArtifactFolder(self.storage, asset.key, identity, group)
        return Task(asset, slice_, group, identity, output, inputs, versions)

    def summary(self, asset: Asset, slice_: Slice, group: str | None) -> ManifestSummary | None:
        """Return the manifest summary of a slice, or None if the slice is missing.

        The profile, the code version and the inputs determine its fingerprint. Damaged outputs count as missing;
        :attr:`damaged` describes them.
        """
        key = SliceKey(asset.key, slice_.name, group)
        if key not in self._current:
            task = self.task_for(asset, slice_, group)
            self._current[key] = self._read_summary(task) if task else None
        return self._current[key]

    def _read_summary(self, task: Task) -> ManifestSummary | None:
        self.damaged.pop(task.key, None)
        try:
            return self.manifest_cache.of(task.output)
        except DamagedOutput as error:
            self.damaged[task.key] = str(error)
            return None

    def missing(self, asset: Asset, group: str | None) -> list[str]:
        """Return the names of the missing slices."""
        return [name for name, slice_ in asset.slices_of(group).items() if self.summary(asset, slice_, group) is None]

    def stale(self) -> Iterator[tuple[Asset, str | None]]:
        """Yield the (asset, group) pairs with missing slices in topological order."""
        for asset in self.graph.values():
            for group in self.groups(asset):
                if self.missing(asset, group):
                    yield asset, group

    def read(self, key: str, group: str | None = None) -> list[Artifact]:
        """Return every finished slice of an asset, for one group or for all groups.

        Raises:
            UserError: a slice is missing.
        """
        asset = self.graph[key]
        artifacts = []
        for slice_, each in self.slices(asset, group):
            summary = self.summary(asset, slice_, each)
            if summary is None:
                raise UserError(f"{Partition(asset.key, each)}: not materialized yet; run 'mobileclip2 run'")
            artifacts.append(Artifact(self.storage, summary))
        return artifacts

    def materialize(
        self, key: str, group: str | None = None, progress: Progress = silent, run_status: RunStatus | None = None
    ) -> MaterializeResult:
        """Compute the missing slices of an asset for one group, and return all slices.

        ``run_status`` tells a cluster's executor whether its run has ended; by default, a run ends with this process.

        Raises:
            UserError: an input is missing, or the stage rejects its input.
            LeaseLost: this process lost the lease of an output or of the run.
        """
        with self._registered() as run:
            return self._materialize(self.graph[key], group, run, progress, run_status or RunStatus())

    def _materialize(
        self, asset: Asset, group: str | None, run: Lease, progress: Progress, run_status: RunStatus
    ) -> MaterializeResult:
        started = time.monotonic()
        self.invalidate_downstream(asset, group)
        tasks = []
        for slice_ in asset.slices_of(group).values():
            self._resolve_models(asset, slice_)
            task = self.task_for(asset, slice_, group)
            if task is None:
                absent = dict.fromkeys(
                    source.asset.key for source in self.upstream_outputs(asset, slice_, group) if source.summary is None
                )
                raise UserError(f"{Partition(asset.key, group)}: {', '.join(absent)} must be materialized first")
            tasks.append(task)
        self.inventory.share()
        computed, device_seconds = self._compute(tasks, run, progress, run_status)
        summaries = {}
        for task in tasks:
            summary = self._read_summary(task)
            if summary is None:
                raise StoreError(f"{self.storage.url}/{task.output.prefix}: the stage ended without a manifest")
            summaries[task.slice.name] = self._current[task.key] = summary
        result = MaterializeResult(asset, group, summaries, computed, time.monotonic() - started)
        if computed:
            self._log_time(result, device_seconds)
        return result

    def _resolve_models(self, asset: Asset, slice_: Slice) -> None:
        """Find the commits of hub models that are not recorded yet, because fingerprints contain them."""
        for external in slice_.externals.values():
            if isinstance(external, Model) and not self.inventory.hub.recorded(external):
                self.inventory.hub.resolve(external, asset.key)

    def _compute(
        self, tasks: list[Task], run: Lease, progress: Progress, run_status: RunStatus
    ) -> tuple[list[str], float]:
        """Compute the missing slices of an asset, or wait for another run that computes them.

        Returns:
            Names of the slices that this run computed, and the device-seconds.
        """
        todo = [task for task in tasks if self._read_summary(task) is None]
        if not todo:
            return [], 0.0
        label = Partition(todo[0].asset.key, todo[0].group)
        logger.debug("%s: %s", label, ", ".join(task.slice.name for task in todo))
        with acquire(
            self.storage,
            [task.output.prefix for task in todo],
            self.lock_payload,
            waiting=lambda: logger.warning("%s: another run computes this now, waiting for it", label),
        ) as lease:
            fence = Lease(lease.holder, lease, run)

            def fenced_progress(step: Step) -> None:
                fence.check()
                progress(step)

            todo = [task for task in todo if self._read_summary(task) is None]
            for task in todo:
                task.output.fence = fence
                if damage := self.damaged.get(task.key):
                    logger.warning("%s: recomputing a damaged output: %s", label, damage)
                    task.output.discard()
            if not todo:
                return [], 0.0
            batch = TaskBatch(
                self,
                todo[0].asset,
                todo[0].group,
                todo,
                fenced_progress,
                holder=lease.holder,
                run_status=run_status,
            )
            seconds = self.compute.run(batch)
        return [task.slice.name for task in todo], seconds

    def invalidate_downstream(self, asset: Asset, group: str | None) -> None:
        """Remove an asset and everything downstream of it from the cache."""
        downstream = {asset.key}
        for other in self.graph.values():
            if downstream.intersection(other.upstream):
                downstream.add(other.key)
        for key in [key for key in self._current if key.asset in downstream]:
            if key.group == group or group is None or key.group is None:
                del self._current[key]

    def _log_time(self, result: MaterializeResult, seconds: float) -> None:
        """Append the time to a log in the store. A manifest must not depend on it."""
        samples = sum(result.summaries[name].samples for name in result.computed)
        record = {"group": result.group, "parts": result.computed, "samples": samples, "seconds": round(seconds, 3)}
        self.storage.append(_times(result.asset.key), f"{json.dumps(record)}\n".encode())

    def times(self, key: str) -> list[dict[str, Any]]:
        """Return the logged times of an asset: group, slices, samples and device-seconds of each materialization."""
        try:
            lines = self.storage.read(_times(key)).decode(errors="replace").splitlines()
        except FileNotFoundError:
            return []
        times = []
        for line in lines:
            with suppress(ValueError):  # a killed or concurrent writer can leave a broken line
                times.append(_TimeRecord.model_validate_json(line).model_dump())
        if broken := len(lines) - len(times):
            logger.warning("%s: %d lines are not records of times and are not used", _times(key), broken)
        return times


class _TimeRecord(BaseModel, allow_inf_nan=False):
    """A line of the log of times."""

    group: str | None
    parts: list[str]
    samples: int = Field(ge=0)
    seconds: float = Field(ge=0)


def _times(key: str) -> str:
    return f"{SCRATCH}/times/{AssetKey(key).dotted}.jsonl"

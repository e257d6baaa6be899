"""Send a task batch to worker processes through a file in the store, and run it there.

The process that materializes an asset locks its outputs, lists the shards and computes the fingerprints. It writes all of this to
a *task spec* in the store. Workers read only the spec: they do not list and hash the sources again, and they cannot compute a
different fingerprint.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import parse
from mobileclip2.engine.lineage import Lineage
from mobileclip2.engine.pipeline import Pipeline, Task, TaskBatch
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.engine.stage import load_stage
from mobileclip2.engine.trace import lineage
from mobileclip2.errors import UserError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.progress import Progress
from mobileclip2.store import Artifact, ArtifactFolder, ManifestSummary, Storage
from mobileclip2.store.lease import WorkerFence

FOLDER = ".orders"


class SliceSpec(BaseModel, frozen=True):
    """One slice of a task spec: its name, its fingerprint and its inputs."""

    name: str
    fingerprint: str
    versions: dict[str, str]
    inputs: dict[str, list[ManifestSummary]]


class TaskSpec(BaseModel, frozen=True):
    """The missing slices of one asset for one group. Equal batches of one holder have equal specs.

    A spec is a file. A :class:`~mobileclip2.engine.pipeline.TaskBatch` holds a store and a callback, which no file can hold.
    """

    store: str
    profile: str
    """YAML text"""
    folder: str
    """base of the relative paths in the profile"""
    asset: AssetKey
    code_version: str
    group: str | None
    slices: list[SliceSpec]
    shards: list[Shard] | None
    """None if the stage does not process shard by shard"""
    lineage: Lineage | None
    """only without ``shards``; spares the worker hashing all sources"""
    holder: str = ""
    """holder of the leases of the outputs. A later run that continues with the same workers writes its own"""

    @classmethod
    def of(cls, batch: TaskBatch) -> TaskSpec:
        """Build the spec of a batch."""
        by_shard = isinstance(load_stage(batch.asset.stage), ShardStage)
        return cls(
            store=batch.pipeline.storage.url,
            profile=batch.profile.public_text,
            folder=batch.profile.folder,
            asset=batch.asset.key,
            code_version=batch.asset.code_version,
            group=batch.group,
            slices=[
                SliceSpec(
                    name=task.slice.name,
                    fingerprint=task.fingerprint,
                    versions=task.versions,
                    inputs={
                        role: [artifact.summary for artifact in artifacts] for role, artifacts in task.inputs.items()
                    },
                )
                for task in batch.tasks
            ],
            shards=batch.inventory.for_other_processes(batch.shards) if by_shard else None,
            lineage=None if by_shard else lineage(batch.pipeline, batch.tasks),
            holder=batch.holder,
        )

    @property
    def name(self) -> str:
        """Return a name that depends on the batch alone and is a valid DNS label."""
        slices = sorted(slice_.fingerprint for slice_ in self.slices)
        identity = fingerprint([self.store, self.asset, self.group, slices])
        return f"{self.asset.stage.replace('_', '-')}-{identity}"

    @property
    def key(self) -> str:
        """Return the key of the spec in the store."""
        return f"{FOLDER}/{self.name}.json"

    def write(self, storage: Storage) -> None:
        """Write the spec to the store."""
        storage.write(self.key, self.model_dump_json().encode())

    @classmethod
    def read(cls, storage: Storage, key: str) -> TaskSpec:
        """Read a spec from the store.

        Raises:
            UserError: the spec was deleted because its run has ended.
        """
        try:
            return cls.model_validate_json(storage.read(key))
        except FileNotFoundError:
            raise UserError(
                f"{storage.url}/{key}: the task spec was deleted because its run has ended; run again"
            ) from None

    def to_batch(self, storage: Storage, progress: Progress) -> TaskBatch:
        """Return the batch that a stage runs.

        Raises:
            UserError: the code version of this process differs from that of the spec.
        """
        pipeline = Pipeline(parse(self.profile, origin=Path(self.folder) / "profile.yaml"))
        asset = pipeline.graph[self.asset]
        if asset.code_version != self.code_version:
            raise UserError(
                f"{self.asset}: the task spec needs version {self.code_version} of the stage, but this worker has version "
                f"{asset.code_version}; start workers from the same image as the run"
            )
        tasks = [
            Task(
                asset,
                asset.slices[slice_.name],
                self.group,
                slice_.fingerprint,
                ArtifactFolder(storage, self.asset, slice_.fingerprint, self.group),
                {role: [Artifact(storage, summary) for summary in each] for role, each in slice_.inputs.items()},
                slice_.versions,
            )
            for slice_ in self.slices
        ]
        if self.holder:
            for task in tasks:
                # read again for each check, because a later run can continue with this worker
                task.output.fence = WorkerFence(
                    storage, task.output.prefix, lambda: TaskSpec.read(storage, self.key).holder
                )
        return TaskBatch(pipeline, asset, self.group, tasks, progress, self.shards, self.lineage, self.holder)


def run_shard_task(storage: Storage, key: str, index: int, of: int, progress: Progress) -> None:
    """Compute the unfinished shards of one chunk. The process that wrote the spec commits the manifests.

    Raises:
        UserError: the stage rejects its input.
    """
    batch = TaskSpec.read(storage, key).to_batch(storage, progress)
    stage = load_stage(batch.asset.stage)
    assert isinstance(stage, ShardStage), f"{batch.asset.key} does not process shard by shard"
    # every of-th shard, so that shards that an earlier run finished are spread over all chunks
    stage.compute(batch, batch.shards[index::of])


def run_task(storage: Storage, key: str, progress: Progress) -> None:
    """Compute a whole batch with its manifests. Under torchrun, run one rank of it.

    Raises:
        UserError: the stage rejects its input.
    """
    batch = TaskSpec.read(storage, key).to_batch(storage, progress)
    if all(task.output.has("manifest.json") for task in batch.tasks):
        return  # an earlier pod was killed after it wrote the manifests
    load_stage(batch.asset.stage)(batch)

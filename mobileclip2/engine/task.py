"""Work as a file: what one process asks others to do, with everything that it has found out.

Who materializes an asset holds its lease, has listed its shards and knows the fingerprints of all that it reads. It writes
that down once as an *order* beside the outputs. The processes that take part read the order, and look at nothing else: thousands
of them do not each list and hash the sources again, and they cannot come to another fingerprint.

    python -m mobileclip2.engine.task s3://bucket/store .orders/name.json --of 40   # the chunk that JOB_COMPLETION_INDEX says
    python -m mobileclip2.engine.task s3://bucket/store .orders/name.json           # all of it; under torchrun, a share of it
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from mobileclip2.config.profile import parse
from mobileclip2.engine.lineage import Lineage
from mobileclip2.engine.pipeline import Artifact, Pipeline, Task, TaskBatch
from mobileclip2.engine.shard_stage import ShardStage
from mobileclip2.engine.source_inventory import Shard
from mobileclip2.engine.stage import load_stage
from mobileclip2.engine.trace import lineage
from mobileclip2.errors import DamagedOutput, StoreError, UserError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.progress import Progress, Step
from mobileclip2.store import ArtifactFolder, ManifestSummary, Storage, open_storage

FOLDER = ".orders"

REFUSED = 65
"""Exit status where trying again would end the same: a bad profile, shard or checkpoint. A store that is away gives 1."""

REFUSES = "mobileclip2: "
MAY_PASS = "mobileclip2, may pass: "
"""what the message begins with in the output of a worker: under torchrun the exit status is lost"""


class SliceSpec(BaseModel):
    """One part of an order: its name, its fingerprint and what it reads."""

    model_config = ConfigDict(frozen=True)

    name: str
    fingerprint: str
    versions: dict[str, str]
    inputs: dict[str, list[ManifestSummary]]


class TaskSpec(BaseModel):
    """The missing parts of one asset for one group. Whoever asks for the same work writes the same order."""

    model_config = ConfigDict(frozen=True)

    store: str
    profile: str
    """as it was written"""
    folder: str
    """that relative paths of the profile start from"""
    asset: str
    code_version: str
    group: str | None
    parts: list[SliceSpec]
    shards: list[Shard] | None
    """None for work that is not divided by shards"""
    lineage: Lineage | None
    """of such work: who does it would list and hash all sources to find it out, hours after they were read"""

    @classmethod
    def of(cls, work: TaskBatch) -> TaskSpec:
        """Build the order of some work."""
        by_shard = isinstance(load_stage(work.asset.stage), ShardStage)
        return cls(
            store=work.pipeline.storage.url,
            profile=work.profile.text,
            folder=work.profile.folder,
            asset=work.asset.key,
            code_version=work.asset.code_version,
            group=work.group,
            parts=[
                SliceSpec(
                    name=part.part.name,
                    fingerprint=part.fingerprint,
                    versions=part.versions,
                    inputs={role: [read.head for read in reads] for role, reads in part.inputs.items()},
                )
                for part in work.parts
            ],
            shards=work.shards if by_shard else None,
            lineage=None if by_shard else lineage(work.pipeline, work.parts),
        )

    @property
    def name(self) -> str:
        """Follows from the work alone: the same work has the same name, whoever asks for it. Fit for a DNS label."""
        parts = sorted(part.fingerprint for part in self.parts)
        identity = fingerprint([self.store, self.asset, self.group, parts])
        return f"{self.asset.partition('/')[0].replace('_', '-')}-{identity}"

    @property
    def key(self) -> str:
        """Return the key of the order in the store."""
        return f"{FOLDER}/{self.name}.json"

    def write(self, storage: Storage) -> None:
        """Write the order into the store."""
        storage.write(self.key, self.model_dump_json().encode())

    @classmethod
    def read(cls, storage: Storage, key: str) -> TaskSpec:
        """Read an order from the store.

        Raises:
            UserError: it is gone: the run that wrote it has ended.
        """
        try:
            return cls.model_validate_json(storage.read(key))
        except FileNotFoundError:
            raise UserError(
                f"{storage.url}/{key}: the order is gone, the run that gave it has ended; run again"
            ) from None

    def work(self, storage: Storage, progress: Progress) -> TaskBatch:
        """Return the work in the form that a stage accepts.

        Raises:
            UserError: the code here is of another version than the code that gave the order.
        """
        pipeline = Pipeline(parse(self.profile, origin=Path(self.folder) / "profile.yaml"))
        asset = pipeline.graph[self.asset]
        if asset.code_version != self.code_version:
            raise UserError(
                f"{self.asset}: ordered from version {self.code_version} of the stage, but this is version "
                f"{asset.code_version}; start workers from the image of the run that orders"
            )
        parts = [
            Task(
                asset,
                asset.parts[part.name],
                self.group,
                part.fingerprint,
                ArtifactFolder(storage, self.asset, part.fingerprint, self.group),
                {
                    role: [
                        Artifact(head, ArtifactFolder(storage, head.asset, head.fingerprint, head.group))
                        for head in heads
                    ]
                    for role, heads in part.inputs.items()
                },
                part.versions,
            )
            for part in self.parts
        ]
        return TaskBatch(pipeline, asset, self.group, parts, progress, self.shards, self.lineage)


def chunk(shards: list[Shard], index: int, of: int) -> list[Shard]:
    """Every ``of``-th shard: what an earlier run has finished is spread over all chunks."""
    return shards[index::of]


def run_shard_task(storage: Storage, key: str, index: int, of: int, progress: Progress) -> None:
    """Compute the missing shards of one chunk. The process that ordered them closes the manifests.

    Raises:
        UserError: the stage refused its input.
    """
    work = TaskSpec.read(storage, key).work(storage, progress)
    run = load_stage(work.asset.stage)
    assert isinstance(run, ShardStage), f"{work.asset.key} is not divided by shards"
    run.compute(work, chunk(work.shards, index, of))


def run_task(storage: Storage, key: str, progress: Progress) -> None:
    """Compute all of an order with its manifests. Under torchrun, each process computes its share.

    Raises:
        UserError: the stage refused its input.
    """
    work = TaskSpec.read(storage, key).work(storage, progress)
    if all(part.output.has("manifest.json") for part in work.parts):
        return  # an earlier process did it and was killed before it could say so
    load_stage(work.asset.stage)(work)


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0; 1 for what may pass, such as a store that is away; :data:`REFUSED` for what will not."""
    parser = argparse.ArgumentParser(prog="python -m mobileclip2.engine.task", description="does ordered work")
    parser.add_argument("store", help="folder or s3:// address")
    parser.add_argument("key", help="of the order in the store")
    parser.add_argument("--of", type=int, help="number of chunks; without it, all of the work")
    chosen = parser.parse_args(arguments)
    storage = open_storage(chosen.store)
    try:
        if chosen.of is None:
            run_task(storage, chosen.key, _line)
        else:
            run_shard_task(storage, chosen.key, int(os.environ["JOB_COMPLETION_INDEX"]), chosen.of, _line)
    except UserError as error:
        may_pass = isinstance(error, StoreError) and not isinstance(error, DamagedOutput)
        print(f"{MAY_PASS if may_pass else REFUSES}{error}", file=sys.stderr, flush=True)
        return 1 if may_pass else REFUSED
    return 0


def _line(step: Step) -> None:
    if int(os.environ.get("RANK", "0")) == 0:
        print(step.to_line(), flush=True)


if __name__ == "__main__":
    sys.exit(main())

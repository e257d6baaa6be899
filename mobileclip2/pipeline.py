"""A profile over its store: which parts of which assets exist, which are missing, and the handing of work to a stage."""

from __future__ import annotations

import importlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mobileclip2.contents import Contents, Shard
from mobileclip2.errors import StoreError, UserError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.graph import Asset, Graph, Part, build_graph
from mobileclip2.profile import Profile
from mobileclip2.progress import Progress, silent
from mobileclip2.store import Manifest, Output, Storage, open_storage


@dataclass
class Read:
    """A finished output, as a stage reads it."""

    manifest: Manifest
    output: Output

    @property
    def group(self) -> str | None:
        return self.manifest.group

    def fetch(self, name: str) -> Path:
        return self.output.fetch(name)


@dataclass
class PartWork:
    """One missing part of an asset for one group: what it declares, what it reads, where it writes."""

    asset: Asset
    part: Part
    group: str | None
    fingerprint: str
    output: Output
    inputs: dict[str, list[Read]]
    versions: dict[str, str]

    def only(self, role: str) -> Read:
        """The single output behind a role that is not spread over parts or groups."""
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
        """Writes the manifest over the named files, all of them already in place."""
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
class Work:
    """What a stage is asked to do: the missing parts of one asset for one group."""

    pipeline: Pipeline
    asset: Asset
    group: str | None
    parts: list[PartWork]
    progress: Progress

    @property
    def profile(self) -> Profile:
        return self.pipeline.profile

    @property
    def contents(self) -> Contents:
        return self.pipeline.contents

    @property
    def shards(self) -> list[Shard]:
        """The input tars at hand: those of the group, or of the caption corpus."""
        if self.group is not None:
            return self.contents.group_shards(self.group)
        return self.contents.corpus_shards(self.asset.name)

    @property
    def scratch(self) -> Path:
        """A local folder that survives a killed run, for work that is not divided by shards."""
        (part,) = self.parts
        folder = self.pipeline.scratch / self.asset.key / part.fingerprint
        folder.mkdir(parents=True, exist_ok=True)
        return folder


@dataclass
class Done:
    """An asset for one group after materialisation."""

    asset: Asset
    group: str | None
    manifests: dict[str, Manifest]
    computed: list[str]
    """names of the parts that were computed now; the others existed"""
    seconds: float

    @property
    def data_version(self) -> str:
        if len(self.manifests) == 1:
            return next(iter(self.manifests.values())).data_version
        return fingerprint({name: manifest.data_version for name, manifest in self.manifests.items()})

    @property
    def samples(self) -> int:
        return sum(manifest.samples for manifest in self.manifests.values())

    @property
    def skip_reasons(self) -> dict[str, int]:
        reasons: dict[str, int] = {}
        for manifest in self.manifests.values():
            for reason, count in manifest.skip_reasons.items():
                reasons[reason] = reasons.get(reason, 0) + count
        return reasons


class Pipeline:
    """One profile, its graph, its outside inputs and its store."""

    def __init__(self, profile: Profile) -> None:
        self.profile = profile
        self.graph: Graph = build_graph(profile)
        self.contents = Contents(profile)
        self._manifests: dict[tuple[str, str, str | None], Manifest | None] = {}

    @cached_property
    def storage(self) -> Storage:
        return open_storage(self.profile.locate(self.profile.store))

    @property
    def scratch(self) -> Path:
        """Where unfinished work that must survive a kill lies: beside a local store, else in the cache."""
        if self.storage.url.startswith("s3://"):
            from mobileclip2.contents import cache_folder

            return cache_folder() / "scratch" / self.profile.name
        return Path(self.storage.url) / ".scratch"

    def groups(self, asset: Asset) -> list[str | None]:
        return list(self.profile.group_names) if asset.grouped else [None]

    def forget(self) -> None:
        """Drops what is remembered of the store and of outside inputs, to see changes that others made."""
        self._manifests.clear()
        self.contents = Contents(self.profile)

    def part_work(self, asset: Asset, part: Part, group: str | None) -> PartWork | None:
        """What computing a part would read and write; None while an input is not there yet."""
        inputs: dict[str, list[Read]] = {}
        versions: dict[str, str] = {}
        for role, source in part.inputs.items():
            upstream = self.graph[source.asset]
            names = [source.part] if source.part else list(upstream.parts)
            groups = [group] if upstream.grouped and asset.grouped else self.groups(upstream)
            reads = []
            for upstream_group in groups:
                for name in names:
                    manifest = self.manifest(upstream, upstream.parts[name], upstream_group)
                    if manifest is None:
                        return None
                    reads.append(Read(manifest, self._output(upstream, manifest.fingerprint, upstream_group)))
                    place = "/".join(
                        filter(
                            None,
                            [role, name if len(names) > 1 else "", upstream_group if len(groups) > 1 else ""],
                        )
                    )
                    versions[place] = manifest.data_version
            inputs[role] = reads
        for role, external in part.externals.items():
            versions[role] = self.contents.digest(external, group)
        identity = fingerprint(
            {
                "asset": asset.key,
                "code_version": asset.code_version,
                "declared": part.declared,
                "inputs": versions,
            }
        )
        return PartWork(asset, part, group, identity, self._output(asset, identity, group), inputs, versions)

    def _output(self, asset: Asset, identity: str, group: str | None) -> Output:
        return Output(self.storage, asset.key, identity, group)

    def manifest(self, asset: Asset, part: Part, group: str | None) -> Manifest | None:
        """The manifest that the present profile, code and inputs call for; None where it must still be computed."""
        key = (asset.key, part.name, group)
        if key not in self._manifests:
            work = self.part_work(asset, part, group)
            self._manifests[key] = work.output.manifest() if work else None
        return self._manifests[key]

    def missing(self, asset: Asset, group: str | None) -> list[str]:
        """Names of the parts that are not there."""
        return [name for name, part in asset.parts.items() if self.manifest(asset, part, group) is None]

    def stale(self) -> Iterator[tuple[Asset, str | None]]:
        """(asset, group) pairs with something missing, in an order that can be computed."""
        for asset in self.graph.values():
            for group in self.groups(asset):
                if self.missing(asset, group):
                    yield asset, group

    def read(self, key: str, group: str | None = None) -> list[Read]:
        """Every finished part of an asset, of one group or over all of them.

        Raises:
            UserError: something of it is missing.
        """
        asset = self.graph[key]
        reads = []
        for each in [group] if group else self.groups(asset):
            for part in asset.parts.values():
                manifest = self.manifest(asset, part, each)
                if manifest is None:
                    raise UserError(f"{key}: not materialised yet; run 'mobileclip2 run'")
                reads.append(Read(manifest, self._output(asset, manifest.fingerprint, each)))
        return reads

    def materialise(self, key: str, group: str | None = None, progress: Progress = silent) -> Done:
        """Computes the missing parts of an asset for one group and returns all of them.

        Raises:
            UserError: an input is not there, or the stage refused its input.
        """
        asset = self.graph[key]
        started = time.monotonic()
        self._drop_lineage(asset, group)
        works = []
        for part in asset.parts.values():
            work = self.part_work(asset, part, group)
            if work is None:
                absent = [up for up in asset.upstream if self._absent(up, asset, group)]
                raise UserError(
                    f"{key}{f' [{group}]' if group else ''}: {', '.join(absent)} must be materialised first"
                )
            works.append(work)
        todo = [work for work in works if work.output.manifest() is None]
        if todo:
            self._run(Work(self, asset, group, todo, progress))
        manifests = {}
        for work in works:
            manifest = work.output.manifest()
            if manifest is None:
                raise StoreError(f"{self.storage.url}/{work.output.prefix}: the stage ended without a manifest")
            manifests[work.part.name] = manifest
            self._manifests[(key, work.part.name, group)] = manifest
        seconds = time.monotonic() - started
        done = Done(asset, group, manifests, [work.part.name for work in todo], seconds)
        if todo:
            self._log_time(done)
        return done

    def take_part(self, key: str) -> None:
        """Trains an ungrouped asset as one of several processes that is not the first: it computes and stores nothing."""
        asset = self.graph[key]
        works = [self.part_work(asset, part, None) for part in asset.parts.values()]
        todo = [work for work in works if work and work.output.manifest() is None]
        if todo:
            self._run(Work(self, asset, None, todo, silent))

    def _run(self, work: Work) -> None:
        stage = importlib.import_module(f"mobileclip2.stages.{work.asset.stage}")
        run: Callable[[Work], None] = stage.run
        run(work)

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
        for key in [key for key in self._manifests if key[0] in downstream]:
            if key[2] == group or group is None or key[2] is None:
                del self._manifests[key]

    def _log_time(self, done: Done) -> None:
        """Times go beside the outputs, never into a manifest, which must not depend on them."""
        samples = sum(done.manifests[name].samples for name in done.computed)
        record = {
            "group": done.group,
            "parts": done.computed,
            "samples": samples,
            "seconds": round(done.seconds, 3),
        }
        path = self.scratch / "times" / f"{done.asset.key.replace('/', '.')}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            file.write(json.dumps(record) + "\n")

    def times(self, key: str) -> list[dict[str, Any]]:
        """How long each materialisation of an asset took on this machine."""
        path = self.scratch / "times" / f"{key.replace('/', '.')}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

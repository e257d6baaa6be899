"""Inputs from outside the store as observable assets: shards by group, evaluation sets, and the other files of each asset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import dagster as dg

from assets.keys import AssetPartition, named, prefixed
from assets.materialize import partitions_of
from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import Profile
from mobileclip2.engine.external import External, GroupShards
from mobileclip2.engine.graph import Asset, Graph
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import UserError
from mobileclip2.fingerprint import fingerprint

GROUP = "inputs"
SETS = "evaluation_sets"

MISSING = "missing"
"""data version of an input whose files cannot be found"""


@dataclass(frozen=True)
class ExternalInput:
    """An observable asset of Dagster that an asset reads."""

    key: dg.AssetKey
    description: str
    partitions: dg.StaticPartitionsDefinition | None = None
    read: tuple[str, ...] = ()
    """keys of the partitions that the asset reads; empty if it reads the one with its own key, or the whole"""

    @property
    def dep(self) -> dg.AssetDep:
        """Return the edge to the asset that reads it."""
        mapping = dg.SpecificPartitionsPartitionMapping(list(self.read)) if self.read else None
        return dg.AssetDep(self.key, partition_mapping=mapping)


def external_inputs(profile: Profile, asset: Asset) -> list[ExternalInput]:
    """Return the inputs of an asset from outside the store."""
    externals = {role: each for slice_ in asset.slices.values() for role, each in slice_.externals.items()}
    found = [
        ExternalInput(_shards_key(profile, each), "The tars of each group.", partitions_of(profile, asset))
        for each in externals.values()
        if isinstance(each, GroupShards)
    ]
    read = tuple(sorted(filter(None, map(_set_of, externals))))
    if read or asset.stage == "evaluation":
        sets = dg.StaticPartitionsDefinition([each.name for each in profile.evaluation])
        found.append(ExternalInput(_key(profile, SETS), "The evaluation sets.", sets, read))
    if _has_variants(asset):
        description = "The declared fields and the files of each variant."
        found.append(ExternalInput(_own_key(profile, asset, "variants"), description, partitions_of(profile, asset)))
    elif any(_is_own(asset, role, each) for role, each in externals.items()):
        description = f"The files outside the store that {asset.key} reads."
        found.append(ExternalInput(_own_key(profile, asset, "files"), description))
    return found


def _shards_key(profile: Profile, shards: GroupShards) -> dg.AssetKey:
    return _key(profile, f"{shards.reinforced}_shards" if shards.reinforced else "source_shards")


def _set_of(role: str) -> str:
    """Return the evaluation set that an asset of another stage reads in a role, or an empty string."""
    kind, _, name = role.partition("/")
    return name if kind in {"curve", "set"} else ""


def _has_variants(asset: Asset) -> bool:
    return asset.by_slice and any(slice_.declared != {"set": name} for name, slice_ in asset.slices.items())


def _own_key(profile: Profile, asset: Asset, what: str) -> dg.AssetKey:
    return _key(profile, "_".join(filter(None, (asset.name, asset.stage, what))))


def _key(profile: Profile, name: str) -> dg.AssetKey:
    return prefixed([GROUP, name], profile)


def _is_own(asset: Asset, role: str, external: External) -> bool:
    """Return whether no other asset reads the same input."""
    return not (isinstance(external, GroupShards) or _set_of(role) or asset.stage == "evaluation")


def observed(profile: Profile, graph: Graph) -> list[dg.SourceAsset]:
    """Define the observable assets of a profile."""
    found = {each.key: each for asset in graph.values() for each in external_inputs(profile, asset)}
    return [_define(profile, each) for each in found.values()]


def _define(profile: Profile, each: ExternalInput) -> dg.SourceAsset:
    pipeline_key = named("pipeline", profile)

    @dg.observable_source_asset(
        key=each.key,
        group_name=named(GROUP, profile),
        description=each.description,
        partitions_def=each.partitions,
        required_resource_keys={pipeline_key},
    )
    def observe(context: dg.OpExecutionContext) -> dg.DataVersion | dg.DataVersionsByPartition:
        pipeline: Pipeline = getattr(context.resources, pipeline_key)
        readers = {
            asset.key
            for asset in pipeline.graph.values()
            if each.key in {read.key for read in external_inputs(profile, asset)}
        }
        versions = {
            name: version for (key, name), version in input_versions(pipeline, readers).items() if key == each.key
        }
        if each.partitions is None:
            return dg.DataVersion(versions[None])
        return dg.DataVersionsByPartition({name: version for name, version in versions.items() if name})

    return observe


def input_versions(pipeline: Pipeline, keys: set[AssetKey] | None = None) -> dict[AssetPartition, str]:
    """Return the data version of every input and partition that some assets read, by default all."""
    chosen = [asset for asset in pipeline.graph.values() if keys is None or asset.key in keys]
    return {partition: version for asset in chosen for partition, version in _versions(pipeline, asset)}


def _versions(pipeline: Pipeline, asset: Asset) -> Iterator[tuple[AssetPartition, str]]:
    for slice_ in asset.slices.values():
        for role, external in slice_.externals.items():
            if isinstance(external, GroupShards):
                for group in pipeline.profile.group_names:
                    yield (_shards_key(pipeline.profile, external), group), _digest(pipeline, external, group)
            elif name := _set_of(role) or (slice_.name if asset.stage == "evaluation" else ""):
                yield (_key(pipeline.profile, SETS), name), _digest(pipeline, external, None)
    own = {
        name: {
            role: _digest(pipeline, each, None) for role, each in slice_.externals.items() if _is_own(asset, role, each)
        }
        for name, slice_ in asset.slices.items()
    }
    if _has_variants(asset):
        for name, files in own.items():
            version = fingerprint({"declared": asset.slices[name].declared, "files": files})
            yield (
                (_own_key(pipeline.profile, asset, "variants"), name),
                MISSING if MISSING in files.values() else version,
            )
    elif any(own.values()):
        is_missing = any(MISSING in files.values() for files in own.values())
        yield (_own_key(pipeline.profile, asset, "files"), None), MISSING if is_missing else fingerprint(own)


def _digest(pipeline: Pipeline, external: External, group: str | None) -> str:
    try:
        return pipeline.inventory.digest(external, group)
    except (UserError, OSError):
        return MISSING

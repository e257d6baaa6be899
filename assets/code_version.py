"""Versions of what a profile declares: of a slice and of everything upstream of it. Nothing outside the profile is read."""

from __future__ import annotations

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.model import Weights
from mobileclip2.engine.graph import Asset, Graph, Slice
from mobileclip2.fingerprint import fingerprint


def code_versions(graph: Graph) -> dict[AssetKey, str]:
    """Return the ``code_version`` that Dagster compares, by asset.

    Dagster compares direct parents only, so the version also covers the declared fields and the code of every asset upstream.
    A slice that is a partition is not covered: its fields are a data version of :mod:`assets.inputs`, so that an added
    partition leaves the others as they are.
    """
    slices: dict[AssetKey, dict[str, str]] = {}
    versions: dict[AssetKey, str] = {}
    for asset in graph.values():
        by_name = {name: _slice_version(slices, asset, slice_) for name, slice_ in asset.slices.items()}
        slices[asset.key] = by_name
        # all partitions of an asset have the same code version
        described: object = sorted(set(by_name.values())) if asset.by_slice else by_name
        versions[asset.key] = f"{asset.code_version}-{fingerprint({'slices': described})}"
    return versions


def _slice_version(slices: dict[AssetKey, dict[str, str]], asset: Asset, slice_: Slice) -> str:
    upstream = {
        role: [slices[source.asset][source.slice]] if source.slice else list(slices[source.asset].values())
        for role, source in slice_.inputs.items()
    }
    fields: dict[str, object] = {
        "code": asset.code_version,
        "upstream": upstream,
        "outside": sorted(slice_.externals),
    }
    if not asset.by_slice:
        pinned = {
            role: external.sha256
            for role, external in slice_.externals.items()
            if isinstance(external, Weights) and external.sha256
        }
        fields |= {"declared": slice_.declared, "pinned": pinned}
    return fingerprint(fields)

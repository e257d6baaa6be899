"""Names in Dagster: the keys of assets, and the keys of the resources that they use."""

from __future__ import annotations

import dagster as dg

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import Profile

AssetPartition = tuple[dg.AssetKey, str | None]
"""an asset or input, and its partition"""


def dagster_key(key: AssetKey, profile: Profile | None = None) -> dg.AssetKey:
    """Return Dagster's key of an asset: ``student.small`` for ``student/small``, after the prefix of the profile."""
    return prefixed([key.dotted], profile)


def prefixed(path: list[str], profile: Profile | None) -> dg.AssetKey:
    """Return a key with the prefix of the profile, if it has one."""
    return dg.AssetKey([profile.key_prefix, *path] if profile and profile.key_prefix else path)


def library_key(key: dg.AssetKey) -> AssetKey:
    """Return the library's key of an asset: ``student/small`` for ``student.small``. A prefix is dropped."""
    return AssetKey.from_dotted(key.path[-1])


def named(name: str, profile: Profile) -> str:
    """Return the name of a group, resource or sensor, with the prefix of the profile, if it has one."""
    return f"{profile.key_prefix}_{name}" if profile.key_prefix else name

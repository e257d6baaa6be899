"""Dagster's keys of the assets. Its graph labels a node with the last part of its key, so a key has one part."""

from __future__ import annotations

import dagster as dg

from mobileclip2.asset_key import AssetKey


def dagster_key(key: AssetKey) -> dg.AssetKey:
    """Return Dagster's key of an asset: ``student.small`` for ``student/small``."""
    return dg.AssetKey(key.dotted)


def library_key(key: dg.AssetKey) -> AssetKey:
    """Return the library's key of an asset: ``student/small`` for ``student.small``. A prefix is dropped."""
    return AssetKey.from_dotted(key.path[-1])

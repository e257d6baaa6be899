"""Dagster's keys of the assets."""

from __future__ import annotations

import dagster as dg

from mobileclip2.asset_key import AssetKey

SEPARATOR = "."
"""stands for "/" in Dagster, whose graph labels a node with the last part of its key; no name contains it"""


def dagster_key(key: AssetKey) -> dg.AssetKey:
    """Return Dagster's key of an asset: ``student.small`` for ``student/small``."""
    return dg.AssetKey(SEPARATOR.join(key.path))


def library_key(key: dg.AssetKey) -> AssetKey:
    """Return the library's key of an asset: ``student/small`` for ``student.small``. A prefix is dropped."""
    return AssetKey.of(*key.path[-1].split(SEPARATOR))

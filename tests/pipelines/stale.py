"""The stale status that GraphQL reports for every asset and partition, with freshly loaded definitions."""

from __future__ import annotations

import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.test_utils import in_process_test_workspace
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster_graphql.schema import create_schema

from assets.keys import library_key
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.plan import plan

Pair = tuple[str, str | None]

NODES = "{ assetNodes { assetKey { path } isMaterializable partitionKeys staleStatus } }"
PARTITIONS = """
query Partitions($key: AssetKeyInput!) {
  assetNodeOrError(assetKey: $key) { ... on AssetNode { staleStatusByPartition } }
}
"""
LOCATION = """
from mobileclip2.config.profile import load
from pipelines.definitions import definitions_of
defs = definitions_of(load({profile!r}))
"""


def unsynced(profile: Path, dagster: dg.DagsterInstance) -> set[Pair]:
    """Return the assets and partitions whose stale status is not FRESH."""
    # Dagster loads a file only once for each name.
    file = profile.parent / f"location_{uuid.uuid4().hex}.py"
    file.write_text(LOCATION.format(profile=str(profile)))
    origin = LoadableTargetOrigin(executable_path=sys.executable, python_file=str(file), attribute="defs")
    schema = create_schema()
    with in_process_test_workspace(dagster, origin) as context:

        def ask(query: str, **variables: object) -> dict[str, Any]:
            result = schema.execute(query, context_value=context, variables=variables)
            assert result.data and not result.errors, result.errors
            return dict(result.data)

        return unsynced_by(ask)


def unsynced_by(ask: Callable[..., dict[str, Any]]) -> set[Pair]:
    """Return the assets and partitions whose stale status is not FRESH. ``ask`` answers GraphQL queries."""
    found: set[Pair] = set()
    for node in ask(NODES)["assetNodes"]:
        key = library_key(dg.AssetKey(node["assetKey"]["path"]))
        if not node["isMaterializable"]:
            continue
        statuses = {None: node["staleStatus"]}
        if node["partitionKeys"]:
            answer = ask(PARTITIONS, key=node["assetKey"])["assetNodeOrError"]["staleStatusByPartition"]
            statuses = dict(zip(node["partitionKeys"], answer, strict=True))
        found |= {(key, partition) for partition, status in statuses.items() if status != "FRESH"}
    return found


def planned(pipeline: Pipeline) -> set[Pair]:
    """Return the assets and partitions of the plan."""
    return {(pair.asset, pair.group) for pair in plan(pipeline).pairs}

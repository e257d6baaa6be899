"""A tick of the sensor ``observe_changes`` when nothing has changed, against a query for each partition.

The profile is that of the tests without models, with the largest number of groups, and Dagster has an event of every
asset-group pair. ``a query for each partition`` reads only the last events, and ``report`` also reads the inputs and the
manifests. They are timed in turns, in SQLite (one machine) and in PostgreSQL (cluster).
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg

from assets.inputs import input_versions
from assets.keys import dagster_key
from benchmarks._turns import in_turns, machine, table
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.observe import report
from tests.pipelines.small import edited, without_models
from tests.postgres import binaries, server
from tests.tiny import make_tiny

GROUPS, REPEATS = 99, 5
BASELINE = "a query for each partition"


def measure() -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        profile = make_tiny(folder, shards=GROUPS)
        edited(profile, without_models)
        pipeline = edited(profile, lambda values: values.update(groups=GROUPS))
        for asset, group in pipeline.stale():
            pipeline.materialize(asset.key, group)
        storages: dict[str, dict[str, Any]] = {"SQLite": {}}
        if binaries():
            storages["PostgreSQL"] = {"storage": {"postgres": {"postgres_db": stack.enter_context(server())}}}
        numbers: dict[str, Any] = {"pairs": sum(len(pipeline.groups(asset)) for asset in pipeline.graph.values())}
        for name, overrides in storages.items():
            (home := folder / name).mkdir()
            with dg.DagsterInstance.local_temp(str(home), overrides=overrides) as dagster:
                report(Pipeline(load(profile)), dagster)
                contenders = {
                    BASELINE: lambda dagster=dagster: ask_each(pipeline, dagster),
                    "report": lambda dagster=dagster: report(Pipeline(load(profile)), dagster),
                }
                numbers[name] = in_turns(contenders, REPEATS)
    return numbers


def ask_each(pipeline: Pipeline, dagster: dg.DagsterInstance) -> None:
    """Read the last event of each input and of each asset-group pair."""
    for key, partition in input_versions(pipeline):
        where = dg.AssetRecordsFilter(key, asset_partitions=[partition] if partition else None)
        assert dagster.fetch_observations(where, limit=1).records
    for asset in pipeline.graph.values():
        for group in pipeline.groups(asset):
            where = dg.AssetRecordsFilter(dagster_key(asset.key), asset_partitions=[group] if group else None)
            assert dagster.fetch_materializations(where, limit=1).records


def show(numbers: dict[str, Any]) -> str:
    lines = [f"{numbers['pairs']} asset-group pairs in {GROUPS} groups; {machine()}"]
    for name in ("SQLite", "PostgreSQL"):
        lines += [name, *(table(numbers[name], BASELINE, unit="ms") if name in numbers else ["  not installed here"])]
    return "\n".join(lines)

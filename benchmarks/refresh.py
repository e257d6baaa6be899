"""Wall time of the job ``refresh`` on the fake cluster, compared with the longest path through the graph.

The profile is that of the tests, with two teachers, two captioners and four groups. The store is empty at first. Run
launcher, step pods, Jobs and PostgreSQL are those of a cluster. Pods are processes of this machine. The time of an
asset and group is the time of its step.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from mobileclip2.asset_key import Partition
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from pipelines.backfill import BACKFILL_TAG, PARTITION_TAGS, assets_by_step
from pipelines.graphql import Server
from pipelines.remote import refresh_remotely
from pipelines.schedule import upstream_of
from tests.cluster import FakeCluster
from tests.mobileclip2.executors.test_dagster import COMPUTE, on_cluster
from tests.pipelines.small import edited
from tests.tiny import make_tiny

GROUPS = 4
MINUTES = 60
NODES = {"one": 2, "two": 2}
"""Nodes and their numbers of GPUs."""

RUNS = """
query Runs {
  runsOrError { ... on Runs { results { tags { key value } assetSelection { path } stepStats { stepKey startTime endTime } } } }
}
"""


def measure() -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        profile = make_tiny(folder / "tiny")
        edited(profile, lambda values: values.update(groups=GROUPS))
        profile.write_text(profile.read_text() + COMPUTE)
        (folder / "cluster").mkdir()
        cluster = stack.enter_context(FakeCluster(folder / "cluster", NODES))
        home = folder / "dagster"
        home.mkdir()
        dagster = on_cluster(cluster, profile, home, stack)
        started = time.time()
        refresh_remotely(Server(dagster.url), [], None, MINUTES)
        wall = time.time() - started
        return {"wall": wall, **paths(Pipeline(load(profile)), seconds_of_steps(Server(dagster.url)))}


def seconds_of_steps(server: Server) -> dict[Partition, float]:
    found: dict[Partition, float] = {}
    for run in server.ask(RUNS)["runsOrError"]["results"]:
        tags = {tag["key"]: tag["value"] for tag in run["tags"]}
        if BACKFILL_TAG not in tags:
            continue
        group = next((tags[tag] for tag in PARTITION_TAGS if tag in tags), None)
        by_step = assets_by_step(run)
        for step in run["stepStats"]:
            found[Partition(by_step[step["stepKey"]], group)] = step["endTime"] - step["startTime"]
    return found


def paths(pipeline: Pipeline, seconds: dict[Partition, float]) -> dict[str, Any]:
    """Return the seconds of the longest chain of dependent steps, and the sum over all steps."""
    ends: dict[Partition, float] = {}
    for asset in pipeline.graph.values():
        for group in pipeline.groups(asset):
            partition = Partition(asset.key, group)
            before = max((ends[each] for each in upstream_of(pipeline, partition)), default=0.0)
            ends[partition] = before + seconds[partition]
    return {"longest_path": max(ends.values()), "one_after_the_other": sum(seconds.values()), "pairs": len(seconds)}


def show(numbers: dict[str, Any]) -> str:
    wall, path = numbers["wall"], numbers["longest_path"]
    return "\n".join(
        [
            f"asset-group pairs            {numbers['pairs']:8}",
            f"wall time                    {wall:8.1f} s, {wall / path:.2f} times the longest path",
            f"longest path                 {path:8.1f} s",
            f"all steps, one after another {numbers['one_after_the_other']:8.1f} s",
        ]
    )

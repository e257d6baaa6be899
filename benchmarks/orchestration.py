"""The cost of orchestration per group and stage: a Dagster run compared with the stage's work, in the tests' profile.

Everything is computed once as by ``mobileclip2 run``: one Dagster run for each asset and group in this process, with
SQLite files. The stage's own work is the time of the executor. The rest of the time goes to Dagster's record of the
run, the pipeline's check of the store, and the pictures of a materialization. In a second round everything is already
stored, so that a run is only overhead.
"""

from __future__ import annotations

import logging
import statistics
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import dagster as dg

from mobileclip2.asset_key import Partition
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import InProcessExecutor, Pipeline, TaskBatch
from mobileclip2.engine.stage import load_stage
from pipelines.asset_definitions import stages
from pipelines.asset_run import materialize
from tests.tiny import make_tiny

REPEATS = 2
QUIET = {"telemetry": {"enabled": False}}


class Timed(InProcessExecutor):
    """Compute in this process and keep the seconds of the last run."""

    seconds = 0.0

    def run(self, work: TaskBatch) -> float:
        self.seconds = super().run(work)
        return self.seconds


def measure() -> dict[str, Any]:
    logging.getLogger("dagster").setLevel(logging.ERROR)
    rows: list[dict[str, Any]] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (folder / "dagster").mkdir()
        temporary = dg.DagsterInstance.local_temp(str(folder / "dagster"), overrides=QUIET)
        instance = stack.enter_context(temporary)
        for repeat in range(REPEATS + 1):
            pipeline = Pipeline(load(make_tiny(folder / str(repeat))))
            for asset in pipeline.graph.values():
                load_stage(asset.stage)  # import it before the clock starts
            found = computed(pipeline, instance)
            if repeat:  # the first repeat is a warm-up
                rows += found
    return {"rows": rows, "repeats": REPEATS}


def computed(pipeline: Pipeline, instance: dg.DagsterInstance) -> list[dict[str, Any]]:
    from mobileclip2 import executors as compute

    timed = Timed()
    compute_of, compute.executor_of = compute.executor_of, lambda profile: timed
    rows = []
    try:
        repository = stages(pipeline.profile).get_repository_def()
        for asset in pipeline.graph.values():
            for group in pipeline.groups(asset):
                timed.seconds = 0.0
                run = partial(materialize, pipeline.profile, repository, instance, Partition(asset.key, group))
                whole = _seconds(run)
                work = timed.seconds
                again = _seconds(run)
                rows.append({"stage": asset.stage, "run": whole, "work": work, "nothing_to_do": again})
    finally:
        compute.executor_of = compute_of
    return rows


def _seconds(run: Any) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def show(numbers: dict[str, Any]) -> str:
    lines = [f"{'ms, medians over groups and repeats':36}{'run':>8}{'work':>8}{'overhead':>10}{'nothing to do':>15}"]
    by_stage: dict[str, list[dict[str, float]]] = {}
    for row in numbers["rows"]:
        by_stage.setdefault(row["stage"], []).append(row)
    for stage, rows in by_stage.items():
        columns = [[row[name] for row in rows] for name in ("run", "work", "nothing_to_do")]
        run, work, nothing = (1000 * statistics.median(column) for column in columns)
        over = 1000 * statistics.median(row["run"] - row["work"] for row in rows)
        lines.append(f"{stage:36}{run:8.0f}{work:8.0f}{over:10.0f}{nothing:15.0f}")
    over = sum(row["run"] - row["work"] for row in numbers["rows"]) / numbers["repeats"]
    whole = sum(row["run"] for row in numbers["rows"]) / numbers["repeats"]
    lines.append(f"all of the profile: {whole:.1f} s, of which {over:.1f} s overhead")
    return "\n".join(lines)

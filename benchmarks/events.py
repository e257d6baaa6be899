"""The cost of Dagster's event record per partition: in memory, in SQLite (one machine) and in PostgreSQL (cluster).

Each run materializes one partition of an empty asset, so that all of the time is Dagster's own. The baseline is the
storage in memory. The three storages are timed in turns.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dagster as dg

from tests.postgres import binaries, server

PARTITIONS, REPEATS = 20, 5
BASELINE = "memory"


GROUPS = [f"g{number:02d}" for number in range(PARTITIONS)]


@dg.asset(partitions_def=dg.StaticPartitionsDefinition(GROUPS))
def nothing() -> dg.MaterializeResult:  # type: ignore[type-arg]  # Dagster takes no subscripted annotation
    return dg.MaterializeResult(data_version=dg.DataVersion("0"), metadata={"samples": 1, "bytes": 1, "seconds": 0.1})


def measure() -> dict[str, Any]:
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        instances = {
            BASELINE: stack.enter_context(dg.DagsterInstance.ephemeral()),
            "SQLite": stack.enter_context(dg.DagsterInstance.local_temp(str(_made(folder / "sqlite")))),
        }
        if binaries():
            storage = {"storage": {"postgres": {"postgres_db": stack.enter_context(server())}}}
            instances["PostgreSQL"] = stack.enter_context(
                dg.DagsterInstance.local_temp(str(_made(folder / "postgres")), overrides=storage)
            )
        job = dg.Definitions(assets=[nothing]).resolve_implicit_global_asset_job_def()
        seconds: dict[str, list[float]] = {name: [] for name in instances}
        events = 0
        for repeat in range(REPEATS + 1):
            for name, instance in instances.items():
                started = time.perf_counter()
                for partition in GROUPS:
                    result = job.execute_in_process(
                        instance=instance, partition_key=partition, run_config={"loggers": {"console": QUIET}}
                    )
                    assert result.success
                if repeat:  # the first repeat is a warm-up
                    seconds[name].append((time.perf_counter() - started) / PARTITIONS)
                events = len(instance.all_logs(result.run_id))
    return {"partitions": PARTITIONS, "repeats": REPEATS, "events": events, "cores": os.cpu_count(), "seconds": seconds}


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


QUIET = {"config": {"log_level": "CRITICAL"}}


def show(numbers: dict[str, Any]) -> str:
    lines = [
        f"one partition's run of an asset that does nothing, {numbers['events']} events, "
        f"{numbers['repeats']} repeats of {numbers['partitions']} partitions"
    ]
    base = statistics.median(numbers["seconds"][BASELINE])
    for name, values in numbers["seconds"].items():
        middle, spread = statistics.median(values), max(values) - min(values)
        lines.append(
            f"  {name:10} median {1000 * middle:6.0f} ms  spread {1000 * spread:5.0f} ms  {middle / base:.2f} x"
        )
    if "PostgreSQL" not in numbers["seconds"]:
        lines.append("  PostgreSQL is not installed here")
    return "\n".join(lines)

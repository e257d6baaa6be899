"""Time to load the definitions, compared with importing dagster alone, as whole processes, and if torch is loaded."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from functools import partial
from typing import Any

from benchmarks._turns import in_turns, ratios, stated

REPEATS, TARGET = 7, 1.5
CODE = {"definitions": "import pipelines.definitions", "dagster": "import dagster"}
PROFILES = ("demo", "dfndr-2b")


def measure() -> dict[str, Any]:
    """Return the seconds of processes that only import."""
    seconds = {}
    for profile in PROFILES:
        environment = {**os.environ, "MOBILECLIP2_PROFILE": profile}

        def run(code: str, environment: dict[str, str] = environment) -> None:
            subprocess.run([sys.executable, "-c", code], check=True, env=environment)

        times = in_turns({name: partial(run, code) for name, code in CODE.items()}, REPEATS)
        seconds[profile] = {name: clocks["wall"] for name, clocks in times.items()}
    torch = subprocess.run([sys.executable, "-c", f"{CODE['definitions']}, sys; sys.exit('torch' in sys.modules)"])
    return {
        "seconds": seconds,
        "times_dagster": {name: ratios(each["definitions"], each["dagster"]) for name, each in seconds.items()},
        "torch_imported": bool(torch.returncode),
    }


def show(numbers: dict[str, Any]) -> str:
    lines = [f"seconds of a process that imports, {REPEATS} repeats"]
    for profile, seconds in numbers["seconds"].items():
        for name, values in seconds.items():
            lines.append(
                f"  {profile:9} {name:12} median {statistics.median(values):.2f}  spread {max(values) - min(values):.2f}"
            )
        ratio = numbers["times_dagster"][profile]
        verdict = "reached" if ratio["median"] <= TARGET else "NOT reached"
        lines.append(f"  {profile:9} ratio {stated(ratio)}, target at most {TARGET:.1f}: {verdict}")
    lines.append(f"  torch is {'IMPORTED' if numbers['torch_imported'] else 'not imported'}")
    return "\n".join(lines)

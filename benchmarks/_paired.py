"""Taking turns: what is compared runs in one process, again and again, so that a noisy machine hits all of it alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any


def turns(
    runs: Mapping[str, Callable[[], Any]], repeats: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of each run of each, in the order of the repeats; a first round, not counted, loads what is loaded once."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = clock()
            run()
            if repeat:
                seconds[name].append(clock() - started)
    return seconds


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """Median and range of the ratios of runs that stood side by side."""
    each = [above / below for above, below in zip(over, under, strict=True)]
    return {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}


def stated(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"

"""Contenders timed in turns, so that whatever else the machine does falls on all of them."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Times = dict[str, dict[str, list[float]]]
"""contender -> ``wall`` and ``cpu`` seconds of each repeat"""


def in_turns(contenders: Mapping[str, Callable[[], object]], repeats: int, until: float = math.inf) -> Times:
    """Each contender once a round; a first round goes to what is loaded and made once.

    ``cpu`` counts all threads of this process: on a machine that others use it says more than ``wall``.
    A GPU is synchronized before and after each run. A round that would not end before the time ``until`` is left out, except
    for the first that counts.
    """
    times: Times = {name: {"wall": [], "cpu": []} for name in contenders}
    longest = 0.0
    for repeat in range(repeats + 1):
        began = time.time()
        if repeat > 1 and began + longest > until:
            break
        for name, run in contenders.items():
            wait()
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            wait()
            if repeat:
                times[name]["wall"].append(time.perf_counter() - wall)
                times[name]["cpu"].append(time.process_time() - cpu)
        longest = max(longest, time.time() - began)
    return times


def wait() -> None:
    """Until the GPU, if there is one, has done all that it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median(times: Times, name: str, clock: str = "wall") -> float:
    return statistics.median(times[name][clock])


def table(times: Times, base: str, count: int = 1, unit: str = "s") -> list[str]:
    """A line a contender: median and spread of the seconds, and how many times those of ``base`` they are."""
    scale = {"s": 1.0, "ms": 1e3}[unit] / count
    lines = []
    for name in times:
        wall = times[name]["wall"]
        lines.append(
            f"  {name:44} {scale * median(times, name):9.4g} {unit}  spread {scale * (max(wall) - min(wall)):8.3g} {unit}"
            f"  {median(times, name) / median(times, base):6.2f} x  (CPU time {_cpu(times, name, base):.2f} x)"
        )
    return lines


def _cpu(times: Times, name: str, base: str) -> float:
    return median(times, name, "cpu") / median(times, base, "cpu")


def ratio(times: Times, over: str | list[str], under: str) -> dict[str, float]:
    """Seconds of ``over``, together, to those of ``under``, by either clock."""
    names = [over] if isinstance(over, str) else over
    return {
        clock: sum(median(times, name, clock) for name in names) / median(times, under, clock)
        for clock in ("wall", "cpu")
    }


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """Median and range of the ratios of rounds that stood side by side."""
    each = [above / below for above, below in zip(over, under, strict=True)]
    return {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}


def stated(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def bars(shares: dict[str, float]) -> list[str]:
    """A picture of where the time goes."""
    total = sum(shares.values())
    return [f"  {name:34} {value / total:5.0%} {'#' * round(50 * value / total)}" for name, value in shares.items()]


def machine() -> str:
    if torch.cuda.is_available():
        return f"{torch.cuda.get_device_name()}, {torch.get_num_threads()} threads"
    return f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, no GPU"


def device() -> torch.device:
    from mobileclip2.models.device import choose_device

    return choose_device("auto")


def verdict(value: float, wanted: float, *, at_least: bool = True) -> str:
    reached = value >= wanted if at_least else value <= wanted
    return f"target {'at least' if at_least else 'at most'} {wanted:g}: {'reached' if reached else 'NOT reached'}"


Numbers = dict[str, Any]

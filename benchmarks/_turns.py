"""Time contenders in turns, so that other load on the machine affects all of them equally."""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

Times = dict[str, dict[str, list[float]]]
"""Contender -> ``wall`` and ``cpu`` seconds of each repeat."""


def in_turns(contenders: Mapping[str, Callable[[], object]], repeats: int, until: float = math.inf) -> Times:
    """Time each contender once per round. The first round is a warm-up and is not recorded.

    ``cpu`` counts all threads of this process. On a shared machine it is more reliable than ``wall``.
    A GPU is synchronized before and after each run. A round that would not end before the time ``until`` is left out,
    except for the first recorded round.
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
    """Wait until the GPU, if there is one, has completed all queued work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median(times: Times, name: str, clock: str = "wall") -> float:
    return statistics.median(times[name][clock])


def table(times: Times, base: str, count: int = 1, unit: str = "s") -> list[str]:
    """Return a line per contender: median and spread of the seconds, and the ratio of its median to ``base``."""
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
    """Return the ratio of the total seconds of ``over`` to the seconds of ``under``, for both clocks."""
    names = [over] if isinstance(over, str) else over
    return {
        clock: sum(median(times, name, clock) for name in names) / median(times, under, clock)
        for clock in ("wall", "cpu")
    }


def ratios(over: list[float], under: list[float]) -> dict[str, float]:
    """Return the median and range of the ratios of the same rounds."""
    each = [above / below for above, below in zip(over, under, strict=True)]
    return {"median": statistics.median(each), "lowest": min(each), "highest": max(each)}


def stated(ratio: Mapping[str, float]) -> str:
    return f"{ratio['median']:.2f} ({ratio['lowest']:.2f} to {ratio['highest']:.2f})"


def bars(shares: dict[str, float]) -> list[str]:
    """Return a text bar chart of the shares of time."""
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

"""The time of a device by kernel, and the share of time in which the device waits for the next kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity

from benchmarks._turns import wait

SHOWN = 15


@dataclass(frozen=True)
class Profile:
    wall: float
    """Seconds of the run without a profiler."""
    busy: float
    """Seconds in which a kernel ran."""
    launches: int
    kernels: list[tuple[str, int, float]]
    """Name, calls and seconds, longest first. On a CPU these are operations; an operation may call others."""

    @property
    def idle(self) -> float:
        """Return the share of time in which the device was idle."""
        return max(0.0, 1 - self.busy / self.wall)

    def lines(self, runs: str) -> list[str]:
        share = sum(seconds for *_, seconds in self.kernels) or 1.0
        return [
            f"{runs}: {1e3 * self.wall:.2f} ms, busy {1e3 * self.busy:.2f} ms, idle {self.idle:.0%}, "
            f"{self.launches} kernels, {1e6 * self.busy / max(1, self.launches):.1f} us each",
            *(
                f"{seconds / share:5.1%} {1e3 * seconds:9.3f} ms {calls:6} x {name[:110]}"
                for name, calls, seconds in self.kernels[:SHOWN]
            ),
        ]


def profile(run: Callable[[], object], device: torch.device) -> Profile:
    """Profile one call, after two warm-up calls."""
    on_gpu = device.type == "cuda"
    for _ in range(2):
        run()
    wait()
    started = time.perf_counter()
    run()
    wait()
    wall = time.perf_counter() - started
    # kernels only: with the operations that launch them, one caption would give half a million events
    with torch.profiler.profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        run()
        wait()
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    # leave out user annotations: they span kernels and the time between them
    events: list[Any] = [
        event
        for event in seen.events()
        if event.device_type == kind and not getattr(event, "is_user_annotation", False)
    ]
    found: dict[str, tuple[int, float]] = {}
    for event in events:
        calls, seconds = found.get(event.name, (0, 0.0))
        spent = event.time_range.elapsed_us() if on_gpu else event.self_cpu_time_total
        found[event.name] = calls + 1, seconds + spent / 1e6
    ranked = sorted(((name, *numbers) for name, numbers in found.items()), key=lambda each: -each[2])
    return Profile(wall, covered((e.time_range.start, e.time_range.end) for e in events) / 1e6, len(events), ranked)


def covered(spans: Iterable[tuple[float, float]]) -> float:
    """Return the length of the union of spans."""
    total, reached = 0.0, float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return total

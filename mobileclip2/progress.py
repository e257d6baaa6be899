"""How work says where it is. A bar on a terminal, a line in a log, metadata in Dagster: the listener decides."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Step:
    """One sign of life. ``done`` and ``total`` count ``unit``; ``numbers`` are the latest rates and losses."""

    done: int
    total: int
    unit: str
    numbers: dict[str, float] = field(default_factory=dict)

    def to_line(self) -> str:
        """Format as one line of a worker's output: ``12/40 steps  loss 2.31  lr 0.001``."""
        numbers = "".join(f"  {name} {value:.4g}" for name, value in self.numbers.items())
        return f"{self.done}/{self.total} {self.unit}{numbers}"

    @classmethod
    def from_line(cls, line: str) -> Step | None:
        """Parse a line that :meth:`to_line` wrote; None for any other."""
        head, *numbers = line.strip().split("  ")
        found = re.fullmatch(r"(\d+)/(\d+) (.+)", head)
        if not found:
            return None
        pairs = [number.rpartition(" ") for number in numbers]
        try:
            values = {name: float(value) for name, _, value in pairs}
        except ValueError:
            return None
        return cls(int(found[1]), int(found[2]), found[3], values)


class Progress(Protocol):
    """A callback that receives every step."""

    def __call__(self, step: Step) -> None:
        """Receive a step."""


def silent(step: Step) -> None:
    """Ignore the step."""


ACTIVITY_LISTENERS: list[Callable[[str], None]] = []
"""Called with what the process does now; with an empty text when that ends."""

_activities: list[str] = []


@contextmanager
def doing(activity: str) -> Iterator[None]:
    """Say what the process does inside the block, such as ``importing`` or ``hashing``. Blocks nest."""
    _activities.append(activity)
    _tell(activity)
    try:
        yield
    finally:
        _activities.pop()
        _tell(_activities[-1] if _activities else "")


COUNT_SECONDS = 0.2
_last_count = 0.0


def counted(done: int, total: int, unit: str) -> None:
    """Say how far the innermost block of :func:`doing` is. Most of many calls a second are dropped."""
    global _last_count
    now = time.monotonic()
    if _activities and now - _last_count >= COUNT_SECONDS:
        _last_count = now
        _tell(f"{_activities[-1]} {done}/{total} {unit}")


def _tell(activity: str) -> None:
    for listener in ACTIVITY_LISTENERS:
        listener(activity)

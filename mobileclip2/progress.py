"""Progress reports. A listener shows them as a bar, as log lines or as Dagster metadata."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Step:
    """One progress report: ``done`` of ``total`` units, and the latest rates and losses in ``numbers``."""

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
        """Parse a line that :meth:`to_line` wrote. Return None for any other line."""
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
    """A callback for progress reports."""

    def __call__(self, step: Step) -> None:
        """Handle a report."""


def silent(step: Step) -> None:
    """Ignore the report."""


ACTIVITY_LISTENERS: list[Callable[[str], None]] = []
"""Callbacks for the current activity. They receive an empty string when it ends."""

_activities: list[str] = []


@contextmanager
def doing(activity: str) -> Iterator[None]:
    """Announce the activity of the block, such as ``importing`` or ``hashing``. Blocks can be nested."""
    _activities.append(activity)
    _notify(activity)
    try:
        yield
    finally:
        _activities.pop()
        _notify(_activities[-1] if _activities else "")


COUNT_SECONDS = 0.2
_last_count = 0.0


def counted(done: int, total: int, unit: str) -> None:
    """Announce the progress of the innermost :func:`doing` block, at most once per ``COUNT_SECONDS``."""
    global _last_count
    now = time.monotonic()
    if _activities and now - _last_count >= COUNT_SECONDS:
        _last_count = now
        _notify(f"{_activities[-1]} {done}/{total} {unit}")


def _notify(activity: str) -> None:
    for listener in ACTIVITY_LISTENERS:
        listener(activity)

"""Progress reports. A listener shows them as a bar, as log lines or as Dagster metadata."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Step:
    """One progress report: ``done`` of ``total`` units, and the latest rates and losses in ``numbers``."""

    done: int
    total: int
    unit: str
    numbers: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        """Format as one line: ``12/40 steps  loss 2.31  lr 0.001``."""
        numbers = "".join(f"  {name} {value:.4g}" for name, value in self.numbers.items())
        return f"{self.done}/{self.total} {self.unit}{numbers}"


Progress = Callable[[Step], None]
"""A callback for progress reports."""


def silent(step: Step) -> None:
    """Ignore the report."""


COUNT_SECONDS = 0.2


@dataclass
class _Activities:
    show: Callable[[str], object]
    """receives the innermost activity"""
    names: list[str] = field(default_factory=list)
    last_count: float = 0.0


_activities: ContextVar[_Activities | None] = ContextVar("activities", default=None)


@contextmanager
def show_activities(show: Callable[[str], object]) -> Iterator[None]:
    """Pass the activities of the block to a callback. It receives an empty string when they end."""
    token = _activities.set(_Activities(show))
    try:
        yield
    finally:
        _activities.reset(token)


@contextmanager
def doing(activity: str) -> Iterator[None]:
    """Announce the activity of the block, such as ``importing`` or ``hashing``. Blocks can be nested."""
    activities = _activities.get()
    if activities is None:
        yield
        return
    activities.names.append(activity)
    activities.show(activity)
    try:
        yield
    finally:
        activities.names.pop()
        activities.show(activities.names[-1] if activities.names else "")


def counted(done: int, total: int, unit: str) -> None:
    """Announce the progress of the innermost :func:`doing` block, at most once per :data:`COUNT_SECONDS`."""
    activities, now = _activities.get(), time.monotonic()
    if activities and activities.names and now - activities.last_count >= COUNT_SECONDS:
        activities.last_count = now
        activities.show(f"{activities.names[-1]} {done}/{total} {unit}")

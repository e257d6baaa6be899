"""Progress reports. A listener shows them as a bar, as log lines or as Dagster metadata."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
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


class Activities:
    """The nested activities of this context, and the callback that shows the innermost one."""

    COUNT_SECONDS = 0.2

    def __init__(self, show: Callable[[str], object]) -> None:
        self._show = show
        self._names: list[str] = []
        self._last_count = 0.0

    @contextmanager
    def doing(self, activity: str) -> Iterator[None]:
        """Show an activity, and at its end the one around it or an empty string."""
        self._names.append(activity)
        self._show(activity)
        try:
            yield
        finally:
            self._names.pop()
            self._show(self._names[-1] if self._names else "")

    def count(self, done: int, total: int, unit: str) -> None:
        """Show the progress of the innermost activity, at most once per ``COUNT_SECONDS``."""
        now = time.monotonic()
        if self._names and now - self._last_count >= self.COUNT_SECONDS:
            self._last_count = now
            self._show(f"{self._names[-1]} {done}/{total} {unit}")


_activities: ContextVar[Activities | None] = ContextVar("activities", default=None)


@contextmanager
def show_activities(show: Callable[[str], object]) -> Iterator[None]:
    """Pass the activities of the block to a callback. It receives an empty string when they end."""
    token = _activities.set(Activities(show))
    try:
        yield
    finally:
        _activities.reset(token)


@contextmanager
def doing(activity: str) -> Iterator[None]:
    """Announce the activity of the block, such as ``importing`` or ``hashing``. Blocks can be nested."""
    activities = _activities.get()
    with activities.doing(activity) if activities else nullcontext():
        yield


def counted(done: int, total: int, unit: str) -> None:
    """Announce the progress of the innermost :func:`doing` block."""
    if activities := _activities.get():
        activities.count(done, total, unit)

"""What a command shows of its progress: bars and a clock on a terminal, a line at least every half minute elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, ProgressColumn, TextColumn
from rich.progress import Progress as Bars
from rich.progress import Task as Bar
from rich.text import Text

from mobileclip2.progress import Step

LINE_SECONDS = 20.0
"""between two lines of a log; a line can be late by as long as the process is not scheduled"""


class Display:
    """Shows a command's progress on stderr.

    :meth:`tick` must be called several times a second; it moves the clock, or writes the next line of a log.
    """

    def __init__(self, console: Console, name: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.name = name
        """shown while nothing more exact is known"""
        self.clock = clock
        self.total = self.finished = 0
        self.place = ""
        """asset and group that are computed now"""
        self.activity = "starting" if name else ""
        self.step: Step | None = None
        self.began = self.place_began = self.activity_began = self.last_line = clock()
        self.bars: Bars | None = None

    def plan(self, total: int) -> None:
        """Set the number of asset-group pairs of this run."""
        self.total = total

    def begin(self, place: str) -> None:
        """Start an asset-group pair."""
        self.place, self.step, self.activity = place, None, ""
        self.place_began = self.clock()

    def advance(self, done: int, total: int, unit: str, numbers: dict[str, float]) -> None:
        """Set how far the place is."""
        self.step = Step(done, total, unit, numbers)

    def end(self, place: str) -> None:
        """Finish a pair; without :meth:`begin` for one that was there already."""
        self.finished += 1
        if self.place and not self.console.is_terminal:
            self._line(f"[{self.finished}/{self.total}] {place} in {self.clock() - self.place_began:.1f} s")
        self.place, self.step, self.activity = "", None, self.name

    def doing(self, activity: str) -> None:
        """Set what the process does now."""
        activity = activity or ("" if self.place else self.name)
        if activity.split(" ")[0] != self.activity.split(" ")[0]:
            self.activity_began = self.clock()
        self.activity = activity

    def say(self, text: str) -> None:
        """Write a line that stays."""
        self._line(text)

    def hide(self) -> None:
        """Clear the bars, so that something else can write to the terminal. The next tick does not show them again."""
        if self.bars:
            self.bars.stop()
            self.bars = None
        self.activity = ""

    def tick(self) -> None:
        """Move the clock, or write a line if none was written for a while."""
        if self.console.is_terminal:
            self._draw()
        elif self.clock() - self.last_line >= LINE_SECONDS and (self.place or self.activity):
            self._line(self.now())

    def now(self) -> str:
        """Describe in one line what is being done, how far it is and for how long."""
        began = self.place_began if self.place else self.activity_began
        number = f"[{self.finished + 1}/{self.total}] " if self.place and self.total else ""
        parts = [self.place, self.step.to_line() if self.step else "", self.activity]
        return f"{number}{': '.join(filter(None, parts))}, {self.clock() - began:.0f} s"

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.last_line = self.clock()

    def _draw(self) -> None:
        if not self.bars:
            if not (self.place or self.activity):
                return
            self.bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                Clock(),
                console=self.console,
                auto_refresh=False,
                transient=True,
            )
            self.all = self.bars.add_task("", total=None, numbers="", seconds=0)
            self.current = self.bars.add_task("", total=None, numbers="", seconds=0)
            self.bars.start()
        now = self.clock()
        self.bars.update(
            self.all,
            description="all assets and groups",
            total=self.total or None,
            completed=self.finished,
            seconds=now - self.began,
            visible=bool(self.total),
        )
        numbers = (
            f"{self.step.unit}  " + "  ".join(f"{k} {v:.3g}" for k, v in self.step.numbers.items()) if self.step else ""
        )
        self.bars.update(
            self.current,
            description=": ".join(filter(None, (self.place, self.activity))),
            total=self.step.total if self.step else None,
            completed=self.step.done if self.step else 0,
            numbers=numbers,
            seconds=now - (self.place_began if self.place else self.activity_began),
            visible=bool(self.place or self.activity),
        )
        self.bars.refresh()


class Clock(ProgressColumn):
    """Hours, minutes and seconds since a bar began, from the display's clock."""

    max_refresh = None

    def render(self, task: Bar) -> Text:
        """Render the time of a bar."""
        minutes, seconds = divmod(int(task.fields["seconds"]), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}", style="progress.elapsed")


def place_of(asset: str, group: str | None) -> str:
    """Name an asset and group as messages do: ``student/x [g00]``."""
    return f"{asset}{f' [{group}]' if group else ''}"

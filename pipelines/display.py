"""Progress of a command: bars and a clock on a terminal, a line at least every 30 seconds elsewhere."""

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
"""interval between two lines of a log, below the promised 30 seconds because the process can be scheduled late"""


class Display:
    """Shows a command's progress on stderr.

    Call :meth:`tick` several times a second. It moves the clock, or writes the next line of a log.
    """

    def __init__(self, console: Console, name: str = "", clock: Callable[[], float] = time.monotonic) -> None:
        self.console = console
        self.name = name
        """label until an asset or activity begins"""
        self.clock = clock
        self.total = self.finished = 0
        self.label = ""
        """label of the asset and group that are being computed"""
        self.activity = "starting" if name else ""
        self.last_step: Step | None = None
        self.began = self.label_began = self.activity_began = self.last_line = clock()
        self.bars: Bars | None = None

    def plan(self, total: int) -> None:
        """Set the number of asset-group pairs of this run."""
        self.total = total

    def begin(self, label: str) -> None:
        """Start an asset-group pair."""
        self.label, self.last_step, self.activity = label, None, ""
        self.label_began = self.clock()

    def step(self, step: Step) -> None:
        """Set the progress of the current pair."""
        self.last_step = step

    def end(self, label: str) -> None:
        """Finish a pair. A pair that was already stored ends without :meth:`begin`."""
        self.finished += 1
        if self.label and not self.console.is_terminal:
            self.say(f"[{self.finished}/{self.total}] {label} in {self.clock() - self.label_began:.1f} s")
        self.label, self.last_step, self.activity = "", None, self.name

    def doing(self, activity: str) -> None:
        """Set the current activity."""
        activity = activity or ("" if self.label else self.name)
        if activity.split(" ")[0] != self.activity.split(" ")[0]:
            self.activity_began = self.clock()
        self.activity = activity

    def hide(self) -> None:
        """Clear the bars, so that something else can write to the terminal."""
        if self.bars:
            self.bars.stop()
            self.bars = None
        self.activity = ""

    def tick(self) -> None:
        """Move the clock, or write a line if the last one is :data:`LINE_SECONDS` old."""
        if self.console.is_terminal:
            self._draw()
        elif self.clock() - self.last_line >= LINE_SECONDS and (self.label or self.activity):
            self.say(self.now())

    def now(self) -> str:
        """Return the current asset, progress, activity and elapsed time as one line."""
        began = self.label_began if self.label else self.activity_began
        number = f"[{self.finished + 1}/{self.total}] " if self.label and self.total else ""
        words = [self.label, str(self.last_step or ""), self.activity]
        return f"{number}{': '.join(filter(None, words))}, {self.clock() - began:.0f} s"

    def say(self, text: str) -> None:
        """Write a permanent line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.last_line = self.clock()

    def _draw(self) -> None:
        if not self.bars:
            if not (self.label or self.activity):
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
        now, step = self.clock(), self.last_step
        self.bars.update(
            self.all,
            description="all assets and groups",
            total=self.total or None,
            completed=self.finished,
            seconds=now - self.began,
            visible=bool(self.total),
        )
        numbers = (
            f"{step.unit}  " + "  ".join(f"{name} {value:.3g}" for name, value in step.numbers.items()) if step else ""
        )
        self.bars.update(
            self.current,
            description=": ".join(filter(None, (self.label, self.activity))),
            total=step.total if step else None,
            completed=step.done if step else 0,
            numbers=numbers,
            seconds=now - (self.label_began if self.label else self.activity_began),
            visible=bool(self.label or self.activity),
        )
        self.bars.refresh()


class Clock(ProgressColumn):
    """Time since a bar began, as ``h:mm:ss`` of the display's clock."""

    max_refresh = None

    def render(self, task: Bar) -> Text:
        """Return the elapsed time of a bar."""
        minutes, seconds = divmod(int(task.fields["seconds"]), 60)
        return Text(f"{minutes // 60}:{minutes % 60:02}:{seconds:02}", style="progress.elapsed")


def label_of(asset: str, group: str | None) -> str:
    """Return the label of an asset and group in messages: ``student/x [g00]``."""
    return f"{asset}{f' [{group}]' if group else ''}"

"""Progress of a command: bars and a clock on a terminal, a line at least every 30 seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn
from rich.progress import Progress as Bars

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
        self.running: dict[str, Running] = {}
        """asset-group pairs that are being computed, by label"""
        self.activity = "starting" if name else ""
        self.began = self.activity_began = self.last_line = clock()
        self.bars: Bars | None = None

    @property
    def label(self) -> str:
        """Return the labels of the pairs that are being computed."""
        return ", ".join(self.running)

    def plan(self, total: int) -> None:
        """Set the number of asset-group pairs of this run."""
        self.total = total

    def begin(self, label: str) -> None:
        """Start an asset-group pair."""
        self.running[label] = Running(self.clock())
        self.activity = ""

    def step(self, label: str, step: Step) -> None:
        """Set the progress of a pair."""
        self.running[label].step = step

    def end(self, label: str) -> None:
        """Finish a pair. A pair that was already stored ends without :meth:`begin`."""
        self._close(label, "in")

    def fail(self, label: str) -> None:
        """Finish a pair that has failed."""
        self._close(label, "failed after")

    def _close(self, label: str, how: str) -> None:
        self.finished += 1
        if (running := self.running.pop(label, None)) and not self.console.is_terminal:
            seconds = self.clock() - running.began
            self.say(f"[{self.finished}/{self.total}] {label} {how} {seconds:.1f} s")
        if running and running.bar is not None and self.bars:
            self.bars.remove_task(running.bar)
        self.activity = "" if self.running else self.name

    def doing(self, activity: str) -> None:
        """Set the current activity."""
        activity = activity or ("" if self.running else self.name)
        if activity.split(" ")[0] != self.activity.split(" ")[0]:
            self.activity_began = self.clock()
        self.activity = activity

    def hide(self) -> None:
        """Clear the bars, so that something else can write to the terminal."""
        if self.bars:
            self.bars.stop()
            self.bars = None
            for running in self.running.values():
                running.bar = None
        self.activity = ""

    def tick(self) -> None:
        """Move the clock, or write a line if the last one is :data:`LINE_SECONDS` old."""
        if self.console.is_terminal:
            self._draw()
        elif self.clock() - self.last_line >= LINE_SECONDS:
            for line in self.now():
                self.say(line)

    def now(self) -> list[str]:
        """Return a line with progress and elapsed time for each current pair, or for the activity."""
        if not self.running:
            return [f"{self.activity}, {self.clock() - self.activity_began:.0f} s"] if self.activity else []
        number = f"[{self.finished + 1}/{self.total}] " if self.total else ""
        activity = f": {self.activity}" if self.activity else ""
        return [
            f"{number}{label}{f': {running.step}' if running.step else ''}{activity}, {self.clock() - running.began:.0f} s"
            for label, running in self.running.items()
        ]

    def say(self, text: str) -> None:
        """Write a permanent line."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)
        self.last_line = self.clock()

    def _draw(self) -> None:
        if not self.bars:
            if not (self.running or self.activity):
                return
            self.bars = Bars(
                TextColumn("{task.description}", markup=False),
                BarColumn(bar_width=24),
                MofNCompleteColumn(),
                TextColumn("{task.fields[numbers]}", markup=False),
                TextColumn("{task.fields[clock]}", style="progress.elapsed"),
                console=self.console,
                auto_refresh=False,
                transient=True,
            )
            self.all = self.bars.add_task("", total=None, numbers="", clock="")
            self.current = self.bars.add_task("", total=None, numbers="", clock="")
            self.bars.start()
        now = self.clock()
        self.bars.update(
            self.all,
            description="all assets and groups",
            total=self.total or None,
            completed=self.finished,
            clock=_clock(now - self.began),
            visible=bool(self.total),
        )
        for label, running in self.running.items():
            if running.bar is None:
                running.bar = self.bars.add_task(label, total=None, numbers="", clock="")
            step = running.step
            numbers = "  ".join(f"{name} {value:.3g}" for name, value in step.numbers.items()) if step else ""
            self.bars.update(
                running.bar,
                description=": ".join(filter(None, (label, self.activity))),
                total=step.total if step else None,
                completed=step.done if step else 0,
                numbers=f"{step.unit}  {numbers}" if step else "",
                clock=_clock(now - running.began),
            )
        self.bars.update(
            self.current,
            description=self.activity,
            clock=_clock(now - self.activity_began),
            visible=bool(self.activity and not self.running),
        )
        self.bars.refresh()


@dataclass
class Running:
    """An asset-group pair that is being computed."""

    began: float
    step: Step | None = None
    bar: TaskID | None = None
    """its bar, on a terminal"""


def _clock(elapsed: float) -> str:
    minutes, seconds = divmod(int(elapsed), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"

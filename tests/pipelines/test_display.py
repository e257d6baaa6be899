from __future__ import annotations

from io import StringIO

import pytest
from rich.console import Console

from mobileclip2 import progress
from mobileclip2.progress import Step, counted, doing, show_activities
from pipelines.display import LINE_SECONDS, Display


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log():
    return StringIO()


@pytest.fixture
def display(clock, log):
    """Return the display of a process without a terminal."""
    return Display(Console(file=log, width=200), "export", clock)


def pass_time(display, clock, seconds):
    for _ in range(int(seconds)):
        clock.now += 1
        display.tick()


def test_the_log_gets_a_line_within_half_a_minute(display, clock, log):
    assert LINE_SECONDS < 30
    pass_time(display, clock, LINE_SECONDS - 1)
    assert log.getvalue() == ""
    pass_time(display, clock, 1)
    assert log.getvalue() == "starting, 20 s\n"


@pytest.mark.parametrize(
    "activity", ["importing", "hashing 00012.tar", "planning", "loading a model", "writing the report"]
)
def test_a_long_activity_is_logged(display, clock, log, activity):
    display.doing(activity)
    pass_time(display, clock, 2 * LINE_SECONDS)
    assert log.getvalue() == f"{activity}, 20 s\n{activity}, 40 s\n"


def test_a_command_without_an_activity_is_logged_by_name(display, clock, log):
    display.doing("importing")
    display.doing("")
    pass_time(display, clock, LINE_SECONDS)
    assert log.getvalue() == "export, 20 s\n"


def test_a_stage_shows_its_progress(display, clock, log):
    display.plan(3)
    display.begin("student/x")
    display.step("student/x", Step(30, 200, "steps", {"loss": 2.125}))
    pass_time(display, clock, LINE_SECONDS)
    display.end("student/x")
    assert log.getvalue().splitlines() == [
        "[1/3] student/x: 30/200 steps  loss 2.125, 20 s",
        "[1/3] student/x in 20.0 s",
    ]


def test_concurrent_pairs_and_failures_have_a_line_each(display, clock, log):
    display.plan(3)
    display.begin("student/x")
    display.begin("student/y")
    display.step("student/y", Step(1, 2, "steps"))
    pass_time(display, clock, LINE_SECONDS)
    display.fail("student/y")
    display.end("student/x")
    assert log.getvalue().splitlines() == [
        "[1/3] student/x, 20 s",
        "[1/3] student/y: 1/2 steps, 20 s",
        "[1/3] student/y failed after 20.0 s",
        "[2/3] student/x in 20.0 s",
    ]


def test_concurrent_pairs_have_a_bar_each(clock):
    shown = StringIO()
    display = Display(Console(file=shown, width=100, force_terminal=True), "run", clock)
    display.plan(2)
    for label in ("student/x", "student/y"):
        display.begin(label)
        display.step(label, Step(1, 2, "steps"))
    pass_time(display, clock, 1)
    assert "student/x" in shown.getvalue() and "student/y" in shown.getvalue()
    display.end("student/x")
    shown.truncate(0)
    pass_time(display, clock, 1)
    assert "student/x" not in shown.getvalue() and "student/y" in shown.getvalue()
    display.hide()


def test_the_terminal_clock_advances_with_every_tick(clock):
    shown = StringIO()
    display = Display(Console(file=shown, width=100, force_terminal=True), "run", clock)
    for activity in ("importing", "hashing 3/9 files", "planning"):
        display.doing(activity)
        pass_time(display, clock, 2)
        assert activity in shown.getvalue()
    display.doing("hashing 3/9 files")
    shown.truncate(0)
    pass_time(display, clock, 61)
    assert all(f"0:00:{second:02}" in shown.getvalue() for second in range(1, 60)) and "0:01:01" in shown.getvalue()
    display.hide()


def test_activity_blocks_nest(monkeypatch):
    heard = []
    monkeypatch.setattr(progress, "COUNT_SECONDS", 0.0)
    with show_activities(heard.append), doing("planning"), doing("hashing"):
        counted(3, 9, "files")
    assert heard == ["planning", "hashing", "hashing 3/9 files", "planning", ""]

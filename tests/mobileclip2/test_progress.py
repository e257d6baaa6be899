from __future__ import annotations

import pytest

from mobileclip2 import progress
from mobileclip2.progress import Step, counted, doing, show_activities


def test_a_step_is_one_line_with_its_numbers() -> None:
    assert str(Step(12, 40, "steps", {"loss": 2.3125, "lr": 0.001})) == "12/40 steps  loss 2.312  lr 0.001"
    assert str(Step(1, 2, "shards")) == "1/2 shards"


def test_the_outer_activity_is_announced_again_after_the_inner_one() -> None:
    heard: list[str] = []
    with show_activities(heard.append), doing("planning"), pytest.raises(ValueError, match="inner"), doing("hashing"):
        raise ValueError("inner")
    assert heard == ["planning", "hashing", "planning", ""]


def test_counts_are_announced_for_the_innermost_activity(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []
    clock = iter([100.0, 100.1, 100.3])
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with show_activities(heard.append), doing("hashing"):
        for done in (1, 2, 3):
            counted(done, 9, "files")
    assert heard == ["hashing", "hashing 1/9 files", "hashing 3/9 files", ""]


def test_an_inner_callback_receives_only_its_own_block() -> None:
    outer: list[str] = []
    inner: list[str] = []
    with show_activities(outer.append), doing("planning"), show_activities(inner.append), doing("hashing"):
        pass
    assert (outer, inner) == (["planning", ""], ["hashing", ""])


def test_without_a_callback_activities_are_silent() -> None:
    with doing("planning"):
        counted(1, 2, "files")

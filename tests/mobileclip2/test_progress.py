from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobileclip2 import progress
from mobileclip2.progress import Step, counted, doing

UNITS = st.sampled_from(["shards", "steps", "shards of frozen features"])
NAMES = st.sampled_from(["loss", "lr", "samples/s", "shapes/acc1", "pods"])


@pytest.fixture
def heard() -> Iterator[list[str]]:
    """Return the activities that are announced during a test."""
    activities: list[str] = []
    progress.ACTIVITY_LISTENERS.append(activities.append)
    yield activities
    progress.ACTIVITY_LISTENERS.remove(activities.append)


@given(st.integers(0, 10**9), st.integers(0, 10**9), UNITS, st.dictionaries(NAMES, st.integers(-999, 999).map(float)))
def test_a_step_survives_its_line(done: int, total: int, unit: str, numbers: dict[str, float]) -> None:
    step = Step(done, total, unit, numbers)
    assert Step.from_line(step.to_line() + "\n") == step


@pytest.mark.parametrize("line", ["", "loading a model", "1/2", "1/x steps", "1/2 steps  loss high", "a 1/2 steps"])
def test_other_lines_are_no_steps(line: str) -> None:
    assert Step.from_line(line) is None


def test_the_outer_activity_is_announced_again_after_the_inner_one(heard: list[str]) -> None:
    with doing("planning"), pytest.raises(ValueError, match="inner"), doing("hashing"):
        raise ValueError("inner")
    assert heard == ["planning", "hashing", "planning", ""]


def test_counts_are_announced_for_the_innermost_activity(heard: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 100.1, 100.3])
    monkeypatch.setattr(progress, "_last_count", 0.0)
    monkeypatch.setattr(progress.time, "monotonic", lambda: next(clock))
    with doing("hashing"):
        for done in (1, 2, 3):
            counted(done, 9, "files")
    assert heard == ["hashing", "hashing 1/9 files", "hashing 3/9 files", ""]

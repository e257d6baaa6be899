"""Wait for a condition, with a limit of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

POLL_SECONDS = 0.05


def until(condition: Callable[[], Found], seconds: float = 240) -> Found:
    """Wait until ``condition`` returns a true value, and return the value."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"the condition is still false after {seconds:g} s"
        time.sleep(POLL_SECONDS)
    return found

"""How long work tells where it is. A bar on a terminal, a line in a log, metadata in Dagster: whoever listens decides."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Step:
    """One sign of life. ``done`` and ``total`` count ``unit``; ``numbers`` are the latest rates and losses."""

    done: int
    total: int
    unit: str
    numbers: dict[str, float] = field(default_factory=dict)

    def to_line(self) -> str:
        """One line of a worker's output: ``12/40 steps  loss 2.31  lr 0.001``."""
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
    """A callback that receives every step."""

    def __call__(self, step: Step) -> None:
        """Receive a step."""


def silent(step: Step) -> None:
    """Ignore every step."""

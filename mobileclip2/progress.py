"""How long work tells where it is. A bar on a terminal, a line in a log, metadata in Dagster: whoever listens decides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol


@dataclass
class Step:
    """One sign of life. ``done`` and ``total`` count ``unit``; ``numbers`` are the latest rates and losses."""

    done: int
    total: int
    unit: str
    numbers: dict[str, float] = field(default_factory=dict)


class Progress(Protocol):
    def __call__(self, step: Step) -> None: ...


def silent(step: Step) -> None:
    """Listens to nothing."""

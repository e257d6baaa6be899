"""The metrics of interpolated weights (WiSE-FT), and the rule that picks a point of the curve."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobileclip2.config.student import Pick
from mobileclip2.errors import UserError
from mobileclip2.evaluation.results import MAIN_METRIC, Metrics
from mobileclip2.store.storage import atomic_path

CURVE = "curve.jsonl"
ROUNDING = 1e-9
"""Tolerance of comparisons, because 0.5 - 0.49 > 0.01 in floating point. Metrics of test sets differ by more."""


@dataclass(frozen=True)
class Point:
    """A point of the curve: the interpolation weight, and the metrics of each evaluation set."""

    weight: float
    metrics: Mapping[str, Metrics]

    def main(self, name: str) -> float:
        """Return the main metric of a set.

        Raises:
            UserError: the main metric is not defined for this point.
        """
        value = self.metrics[name].get(MAIN_METRIC)
        if value is None:
            raise UserError(
                f"evaluation set '{name}': its main metric is not defined for weight {self.weight:g}; "
                "name another set in 'between.pick'"
            )
        return value


def pick(curve: Sequence[Point], rule: Pick) -> Point:
    """Return the point with the highest main metric on ``rule.best`` among the points that satisfy the rule.

    Ties go to the point nearest the start. The first point of ``curve`` is the start, and it always satisfies the rule.

    Raises:
        UserError: a main metric is not defined.
    """
    start = curve[0]
    allowed = [
        point
        for point in curve
        if all(start.main(name) - point.main(name) <= rule.within + ROUNDING for name in rule.of)
    ]
    return max(allowed, key=lambda point: (point.main(rule.best), -point.weight))


def read_curve(path: Path) -> list[Point]:
    """Read the points of a ``curve.jsonl``. Return an empty list if the file does not exist."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Point(**json.loads(line)) for line in lines]


def write_curve(path: Path, curve: Sequence[Point]) -> None:
    """Write a ``curve.jsonl`` atomically.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    lines = [json.dumps({"weight": point.weight, "metrics": point.metrics}) + "\n" for point in curve]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines))

"""The curve of interpolated weights, measured on some evaluation sets, and the rule that picks a point of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mobileclip2.config.profile import Pick
from mobileclip2.errors import UserError
from mobileclip2.evaluation.results import MAIN_METRIC, Metrics
from mobileclip2.store.storage import atomic_path

CURVE = "curve.jsonl"
ROUNDING = 1e-9
"""shares of whole test sets differ by more; 0.5 - 0.49 is a little more than 0.01"""


@dataclass(frozen=True)
class Point:
    """One point: the share of the end's weights in it, and every metric of each evaluation set."""

    weight: float
    metrics: Mapping[str, Metrics]

    def main(self, name: str) -> float:
        """Return the main metric of a set.

        Raises:
            UserError: it is not defined there.
        """
        value = self.metrics[name].get(MAIN_METRIC)
        if value is None:
            raise UserError(
                f"evaluation set '{name}': its main metric is not defined for weight {self.weight:g}; "
                "name another set in 'between.pick'"
            )
        return value


def pick(curve: Sequence[Point], rule: Pick) -> Point:
    """Return the point with the highest main metric on ``rule.best`` among those that keep to the rule.

    Ties go to the point nearest the start. The first point of ``curve`` is the start and always keeps to the rule.

    Raises:
        UserError: a main metric is not defined.
    """
    start = curve[0]
    kept = [
        point
        for point in curve
        if all(start.main(name) - point.main(name) <= rule.within + ROUNDING for name in rule.of)
    ]
    return max(kept, key=lambda point: (point.main(rule.best), -point.weight))


def read_curve(path: Path) -> list[Point]:
    """Read the points of a ``curve.jsonl``. There are none if the file does not exist."""
    lines = path.read_text().splitlines() if path.exists() else []
    return [Point(**json.loads(line)) for line in lines]


def write_curve(path: Path, curve: Sequence[Point]) -> None:
    """Write the whole file or nothing.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    lines = [json.dumps({"weight": point.weight, "metrics": point.metrics}) + "\n" for point in curve]
    with atomic_path(path) as temporary:
        temporary.write_text("".join(lines))

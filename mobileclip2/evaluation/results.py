"""Results as DataComp writes them: one JSON object a line with ``key``, ``dataset`` and ``metrics``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from mobileclip2.errors import UserError
from mobileclip2.store.storage import atomic_path

MAIN = "main_metric"
PER_CLASS = {"vtab/caltech101", "fgvc_aircraft", "vtab/flowers", "vtab/pets"}
"""sets of the DataComp suite that are judged by ``mean_per_class_recall``, their classes being of unequal size"""

Metrics = Mapping[str, float | None]


@dataclass(frozen=True)
class Result:
    """What one model scored on one set; None is a metric that is not defined there.

    ``samples`` has a row for each query, from which failures, confusions and confidence intervals follow; it is
    no part of the published format. Classification: ``key``, ``target``, ``predicted`` (class indices),
    ``rank`` (classes before the right one). Retrieval: ``query`` ("image" or "text"), ``key`` (of the image),
    ``rank``.
    """

    key: str
    dataset: str
    metrics: Metrics
    samples: pa.Table | None = field(default=None, compare=False, repr=False)

    @property
    def main(self) -> float | None:
        return self.metrics.get(MAIN)


def main_name(key: str, metrics: Metrics) -> str | None:
    """Name of the metric that stands for a set in tables and averages; None where that is not known."""
    names = ("mean_recall@1", "mean_per_class_recall" if key in PER_CLASS else "acc1")
    return next((name for name in names if name in metrics), None)


def with_main(key: str, metrics: Metrics) -> Metrics:
    """The metrics of a set with its main one under DataComp's name."""
    name = main_name(key, metrics)
    return {**metrics, MAIN: metrics[name] if name else None}


def dumps(results: Iterable[Result]) -> str:
    """JSON lines.

    Raises:
        UserError: a metric is NaN or infinite, which JSON has no form for.
    """
    lines = []
    for result in results:
        for name, value in result.metrics.items():
            if value is not None and not math.isfinite(value):
                raise UserError(
                    f"results: {name} of '{result.key}' is {value}; the evaluation went wrong, nothing was written"
                )
        record = {"key": result.key, "dataset": result.dataset, "metrics": dict(result.metrics)}
        lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines)


def loads(text: str, name: str) -> list[Result]:
    """Results from JSON lines; the bare NaN of published files, which is no JSON, becomes None.

    Raises:
        UserError: not this format; tells the line of ``name``.
    """
    results: dict[str, Result] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            result = _result(json.loads(line, parse_constant=_constant))
            if result.key in results:
                raise ValueError(f"'{result.key}' has a line already")
        except ValueError as error:
            raise UserError(f"{name}, line {number}: not a result in DataComp's format: {error}") from error
        results[result.key] = result
    return list(results.values())


def read_results(path: Path) -> list[Result]:
    """Results of a file.

    Raises:
        UserError: it cannot be read or is not in the format.
    """
    try:
        return loads(path.read_text(encoding="utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the results cannot be read: {error}") from error


def write_results(path: Path, results: Iterable[Result]) -> None:
    """Writes the whole file or nothing."""
    text = dumps(results)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _constant(name: str) -> None:
    if name != "NaN":
        raise ValueError(f"{name} is no value of a metric")


def _result(record: Any) -> Result:
    if not isinstance(record, dict):
        raise ValueError("a line must hold one JSON object")
    for name, kind in (("key", str), ("dataset", str), ("metrics", dict)):
        if not isinstance(record.get(name), kind):
            raise ValueError(f"'{name}' is missing or of another type")
    for name, value in record["metrics"].items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"metric '{name}' is not a number")
    return Result(record["key"], record["dataset"], record["metrics"])

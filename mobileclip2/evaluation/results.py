"""Read and write results in DataComp's format: JSON lines with ``key``, ``dataset`` and ``metrics``."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from mobileclip2.config.evaluation_tasks import TASKS
from mobileclip2.data.bounded_json import unique_fields
from mobileclip2.errors import UserError
from mobileclip2.evaluation.metrics import metrics_of
from mobileclip2.evaluation.samples import REMEDY, read_samples

MAIN_METRIC = "main_metric"
RESULTS = "results.jsonl"
SAMPLES = "samples.parquet"
"""File name of the prediction table."""
MAX_BYTES = 16 << 20
"""maximum size of a file of results; a line has about 1 KiB"""

ROUNDING = 0.0005
"""largest difference of a stated metric from that of its samples: published percentages have one decimal"""

Metrics = Mapping[str, float | None]


@dataclass(frozen=True)
class Result:
    """The metrics of one model on one set. An undefined metric is None.

    ``protocol`` is the hash of the set's files, class names and templates. ``samples`` is the prediction table with a row
    for each query. Published files contain neither. Columns by kind of set:

    - classification: ``key``, ``target``, ``predicted`` (class indices), ``rank`` (classes before the correct one), and the
      fields of the set
    - retrieval: ``query`` ("image" or "text"), ``key`` (of the image), ``rank``, ``nearest`` (indices of the nearest
      candidates: images for a text and captions for an image, in the order of the set)
    - association: ``key``, ``candidates``, ``associations``, ``found`` (numbers of images), ``chosen`` (indices of candidates)
    - faces: ``key``, ``predicted_<question>`` for each question, and the fields of the set
    """

    key: str
    dataset: str
    metrics: Metrics
    protocol: str | None = None
    samples: pa.Table | None = field(default=None, compare=False, repr=False)

    @property
    def main(self) -> float | None:
        """Return the main metric, or None if it is not defined for the set."""
        return self.metrics.get(MAIN_METRIC)


class MetricName(NamedTuple):
    """A metric of one evaluation set, written as ``<set>/<metric>`` in training logs."""

    set: str
    metric: str

    @classmethod
    def parse(cls, text: str) -> MetricName:
        """Parse the written form. The name of a set can contain slashes."""
        name, _, metric = text.rpartition("/")
        return cls(name, metric)

    def __str__(self) -> str:
        return f"{self.set}/{self.metric}"


def main_name(key: str, metrics: Collection[str]) -> str | None:
    """Return the name of a set's main metric in tables and averages, or None if it has no main metric."""
    names = (TASKS[key].main,) if key in TASKS else ("mean_recall@1", "acc1")
    return next((name for name in names if name in metrics), None)


def with_main(key: str, metrics: Metrics) -> Metrics:
    """Add the main metric of a set to its metrics, under DataComp's name."""
    name = main_name(key, metrics)
    return {**metrics, MAIN_METRIC: metrics[name] if name else None}


def measure(key: str, table: pa.Table) -> Metrics:
    """Compute all metrics of a prediction table and DataComp's main metric, or None for undefined metrics."""
    values = {name: metric.of(table) for name, metric in metrics_of(key, table).items()}
    return with_main(key, {name: value if math.isfinite(value) else None for name, value in values.items()})


def dumps(results: Iterable[Result]) -> str:
    """Convert results to JSON lines.

    Raises:
        UserError: a metric is NaN or infinite, which JSON cannot represent.
    """
    lines = []
    for result in results:
        for name, value in result.metrics.items():
            if value is not None and not math.isfinite(value):
                raise UserError(
                    f"results: {name} of '{result.key}' is {value}; the evaluation failed, so no result was written"
                )
        record: dict[str, Any] = {"key": result.key, "dataset": result.dataset, "metrics": dict(result.metrics)}
        if result.protocol:
            record["protocol"] = result.protocol
        lines.append(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
    return "".join(lines)


def loads(text: str, name: str) -> list[Result]:
    """Parse JSON lines. The bare NaN of published files becomes None.

    Raises:
        UserError: the text is not in this format. The message names ``name`` and the line.
    """
    results: dict[str, Result] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            result = _result(json.loads(line, parse_constant=_constant, object_pairs_hook=unique_fields))
            if result.key in results:
                raise ValueError(f"'{result.key}' already has a line")
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}, line {number}: not a result in DataComp's format: {error}") from error
        results[result.key] = result
    return list(results.values())


def read_results(path: Path) -> list[Result]:
    """Read a file of JSON lines, or every ``results.jsonl`` in a folder with its prediction table.

    Raises:
        UserError: the file cannot be read or has another format, the folder has no results or two results of a set, or a
            metric contradicts its prediction table.
    """
    if not path.is_dir():
        return _read_file(path)
    results: dict[str, Result] = {}
    for file in sorted(path.rglob(RESULTS)):
        table = file.with_name(SAMPLES)
        found = _read_file(file)
        if table.exists():
            if len(found) != 1:
                raise UserError(
                    f"{table}: the {RESULTS} beside it has {len(found)} results, and samples belong to one; {REMEDY}"
                )
            found = [with_samples(found[0], table)]
        for result in found:
            if result.key in results:
                raise UserError(f"{path}: two results of '{result.key}'; give the folder of one evaluation")
            results[result.key] = result
    if not results:
        raise UserError(f"{path}: no {RESULTS} in it; give a folder of evaluations or a file of JSON lines")
    return list(results.values())


def with_samples(result: Result, path: Path) -> Result:
    """Return a result with its prediction table, from which its metrics are recomputed and compared.

    Raises:
        DamagedOutput: the table cannot be read.
        UserError: the table is not one of the set, or a metric differs from the table.
    """
    table = read_samples(path, result.key)
    metrics = metrics_of(result.key, table)
    if not metrics.keys() & result.metrics.keys():
        raise UserError(
            f"{path}: '{result.key}': the samples give {', '.join(metrics)}, none of the stated metrics; {REMEDY}"
        )
    for name, stated in result.metrics.items():
        metric = metrics.get((main_name(result.key, metrics) or "") if name == MAIN_METRIC else name)
        if metric and stated is not None and not round(abs(metric.of(table) - stated), 9) <= ROUNDING:
            raise UserError(
                f"{path}: '{result.key}': {name} of these samples is {metric.of(table):.4g}, but {RESULTS} says {stated:.4g}; "
                + REMEDY
            )
    return replace(result, samples=table)


def _read_file(path: Path) -> list[Result]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise UserError(f"{path}: larger than {MAX_BYTES:,} bytes; give a file of results")
        return loads(path.read_text(encoding="utf-8-sig"), str(path))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the results cannot be read: {error}") from error


def _constant(name: str) -> None:
    if name != "NaN":
        raise ValueError(f"{name} is not a valid metric value")


def _result(record: Any) -> Result:
    if not isinstance(record, dict):
        raise ValueError("a line must hold one JSON object")
    for name, kind in (("key", str), ("dataset", str), ("metrics", dict)):
        if not isinstance(record.get(name), kind):
            raise ValueError(f"'{name}' is missing or of another type")
    for name, value in record["metrics"].items():
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ValueError(f"metric '{name}' is not a number")
        if value is not None and not abs(value) <= sys.float_info.max:
            raise ValueError(f"metric '{name}' is not a finite number")
    protocol = record.get("protocol")
    if protocol is not None and not isinstance(protocol, str):
        raise ValueError("'protocol' is not a text")
    return Result(record["key"], record["dataset"], record["metrics"], protocol)

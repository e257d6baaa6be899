"""Compare a model with its baseline and test whether it is worse than the profile tolerates."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS, averages
from mobileclip2.config.gate import Gate
from mobileclip2.errors import UserError
from mobileclip2.evaluation.bootstrap import RESAMPLES, Interval, draws, interval
from mobileclip2.evaluation.metrics import metrics_of
from mobileclip2.evaluation.published import NUMBERS
from mobileclip2.evaluation.results import MAIN_METRIC, Result, main_name

AVERAGED = "main metrics"
"""The metric name in the row of an average."""


@dataclass(frozen=True)
class ComparisonRow:
    """One metric of one set, or one average of main metrics, between 0 and 1."""

    set: str
    metric: str
    value: float
    interval: Interval
    baseline: float | None = None
    difference: Interval | None = None
    """Interval of the difference. All judged rows together have the confidence of the gate."""
    tolerance: float | None = None
    """Tolerated loss, or None if the row is shown but not judged."""

    @property
    def failed(self) -> bool:
        """Whether the whole interval of the difference lies below the tolerated loss."""
        return self.tolerance is not None and self.difference is not None and self.difference[1] < -self.tolerance


@dataclass(frozen=True)
class Comparison:
    """The metrics of a model and of its baseline."""

    rows: Sequence[ComparisonRow]
    confidence: float
    seed: int
    notes: Sequence[str] = ()
    """Limitations of the baseline."""

    @property
    def judged(self) -> list[ComparisonRow]:
        """Return the rows that the gate judges."""
        return [row for row in self.rows if row.tolerance is not None]

    @property
    def failed(self) -> list[ComparisonRow]:
        """Return the rows on which the model is worse than its baseline."""
        return [row for row in self.rows if row.failed]


class _Measured(NamedTuple):
    """A row without its difference, and the resampled values of both models, or a constant if there are no samples."""

    row: ComparisonRow
    drawn: np.ndarray
    baseline_drawn: np.ndarray | None


def compare(results: Sequence[Result], baseline: Sequence[Result] | None, gate: Gate, *, seed: int = 0) -> Comparison:
    """Compare every set of ``results`` with the baseline.

    Both models are measured on the same resampled samples. A row fails if the interval of its difference lies below minus
    its tolerance. All intervals together have ``gate.confidence`` (Bonferroni), so many sets do not fail more easily than
    one.

    Raises:
        UserError: a judged metric is missing or not defined, or the baseline was measured on other data.
    """
    results_by_key = {result.key: result for result in results}
    baseline_by_key = None if baseline is None else {result.key: result for result in baseline}
    measured = [each for result in results for each in _rows(result, baseline_by_key, gate, seed)]
    measured += _averages(results_by_key, baseline_by_key, gate, measured)
    judged = [each.row for each in measured if each.row.tolerance is not None]
    if baseline_by_key is not None:
        for name in gate.tolerance:
            if not any(row.metric == name or (name == MAIN_METRIC and _is_main(row, results_by_key)) for row in judged):
                raise UserError(f"gate.tolerance: no judged set has the metric '{name}'; correct the name or remove it")
    level = 1 - (1 - gate.confidence) / max(1, len(judged))
    rows = [
        row if baseline_drawn is None else replace(row, difference=interval(drawn - baseline_drawn, level))
        for row, drawn, baseline_drawn in measured
    ]
    return Comparison(rows, gate.confidence, seed, _notes(baseline_by_key, results_by_key))


def _is_main(row: ComparisonRow, results_by_key: Mapping[str, Result]) -> bool:
    return row.set not in results_by_key or row.metric == main_name(row.set, results_by_key[row.set].metrics)


def _notes(baseline_by_key: Mapping[str, Result] | None, results_by_key: Mapping[str, Result]) -> list[str]:
    shared = [result for key, result in (baseline_by_key or {}).items() if key in results_by_key]
    notes = []
    if any(result.samples is None for result in shared):
        notes.append("The baseline has no samples, so the intervals do not include its noise.")
    if any(result.protocol is None for result in shared):
        notes.append("The baseline has no protocol. Its sets, class names and templates are assumed to be the same.")
    return notes


def _rows(result: Result, baseline_by_key: Mapping[str, Result] | None, gate: Gate, seed: int) -> Iterator[_Measured]:
    """Yield the main metric of a set, its judged metrics and its metrics with a published number."""
    main = main_name(result.key, result.metrics)
    tolerances = {main if name == MAIN_METRIC else name: tolerance for name, tolerance in gate.tolerance.items()}
    judged = baseline_by_key is not None and (gate.sets is None or result.key in gate.sets)
    counts = result.key not in TASKS or TASKS[result.key].counts
    if judged and main is None and counts and MAIN_METRIC in gate.tolerance:
        raise UserError(f"'{result.key}': the set has no main metric; remove it from 'gate.sets' in the profile")
    published = [metric for key, metric in NUMBERS if key == result.key]
    other = (baseline_by_key or {}).get(result.key)
    incomparable = _incomparable(result, other)
    for name in dict.fromkeys([main, *tolerances, *published]):
        tolerance = tolerances.get(name) if judged else None
        if name is None or (
            name != main and _is_undefined(result, name) and (other is None or _is_undefined(other, name))
        ):
            continue  # the set has another kind
        if tolerance is not None:
            _check_defined(result, other, name)
            if incomparable:
                raise UserError(incomparable)
        if not _is_undefined(result, name):
            shown = other is not None and not incomparable and not _is_undefined(other, name)
            yield _measure(result, other if shown else None, name, tolerance, gate.confidence, seed)


def _is_undefined(result: Result, name: str) -> bool:
    return result.metrics.get(name) is None


def _check_defined(result: Result, other: Result | None, name: str) -> None:
    """Raise ``UserError`` if a judged metric has no value for the model or the baseline."""
    if other is None:
        raise UserError(
            f"'{result.key}': the baseline has no result of this set; evaluate the baseline on it, or list the judged sets "
            "in 'gate.sets'"
        )
    for owner, each in (("this model", result), ("the baseline", other)):
        subject = f"'{result.key}': {name} of {owner}"
        if name not in each.metrics:
            raise UserError(f"{subject} is missing; evaluate it again, or remove the metric from the gate")
        value = each.metrics[name]
        if value is None:
            raise UserError(f"{subject} is not defined (NaN or null); remove the set from 'gate.sets'")
        if not 0 <= value <= 1:
            raise UserError(f"{subject} is {value:g}, not between 0 and 1; divide percentages by 100")


def _incomparable(result: Result, other: Result | None) -> str:
    """Return why two results of a set are not comparable, or "" if no difference is known."""
    if other is None:
        return ""
    prefix = f"'{result.key}': "
    if result.protocol and other.protocol and result.protocol != other.protocol:
        return (
            f"{prefix}the baseline was measured on other images, class names or templates (protocol {other.protocol[:12]}, "
            f"here {result.protocol[:12]}); evaluate both on the same set"
        )
    if result.samples is not None and other.samples is not None and _keys(result) != _keys(other):
        return f"{prefix}the baseline was measured on other samples; evaluate both on the same set"
    if result.samples is not None and other.samples is None and not other.protocol and result.key in TASKS:
        here, there = _size(result), TASKS[result.key].size
        if here != there:
            return (
                f"{prefix}{here:,} samples here, {there:,} in the published set; evaluate the full set, or use a baseline "
                "that was measured on this set"
            )
    return ""


def _keys(result: Result) -> list[list[str]]:
    assert result.samples is not None
    return [result.samples.column(name).to_pylist() for name in ("key", "query") if name in result.samples.column_names]


def _size(result: Result) -> int:
    """Count the test images, or the questions of an association set."""
    assert result.samples is not None
    if "query" in result.samples.column_names:
        return int(np.sum(result.samples.column("query").to_numpy(zero_copy_only=False) == "image"))
    return int(result.samples.num_rows)


def _measure(
    result: Result, other: Result | None, name: str, tolerance: float | None, confidence: float, seed: int
) -> _Measured:
    pair = [result] if other is None else [result, other]
    values = [float(each.metrics[name] or 0) for each in pair]
    # the noise of a result without samples is unknown
    drawn = [np.full(RESAMPLES, value) for value in values]
    sampled = [index for index, each in enumerate(pair) if each.samples is not None]
    tables = [pair[index].samples for index in sampled]
    metric = metrics_of(result.key, tables[0]).get(name) if tables else None
    if metric:
        # A shared seed would correlate the sets, and averages need independent resamples.
        set_seed = (seed, zlib.crc32(result.key.encode()))
        for index, resampled in zip(sampled, draws(metric, tables, seed=set_seed), strict=True):
            drawn[index] = resampled
    row = ComparisonRow(result.key, name, values[0], interval(drawn[0], confidence), tolerance=tolerance)
    if other is None:
        return _Measured(row, drawn[0], None)
    return _Measured(replace(row, baseline=values[1]), drawn[0], drawn[1])


def _averages(
    results_by_key: Mapping[str, Result],
    baseline_by_key: Mapping[str, Result] | None,
    gate: Gate,
    measured: Sequence[_Measured],
) -> Iterator[_Measured]:
    """Yield the published averages whose sets all have results."""
    here = averages({key: result.main for key, result in results_by_key.items()})
    there = averages({key: result.main for key, result in (baseline_by_key or {}).items()})
    mains = {each.row.set: each for each in measured if _is_main(each.row, results_by_key)}
    for name, keys in AVERAGES.items():
        judged = (
            baseline_by_key is not None and MAIN_METRIC in gate.tolerance and (gate.sets is None or name in gate.sets)
        )
        if name not in here:
            if judged and gate.sets is not None:
                missing = [key for key in keys if key not in results_by_key]
                raise UserError(f"gate.sets: '{name}' needs {len(missing)} more sets, such as '{missing[0]}'")
            continue
        if judged and name not in there:
            raise UserError(f"'{name}': the baseline lacks a set of this average; list the judged sets in 'gate.sets'")
        rows = [mains[key] for key in keys]
        drawn = np.mean([each.drawn for each in rows], axis=0)
        baseline_drawn = [each.baseline_drawn for each in rows if each.baseline_drawn is not None]
        if judged:
            for key in keys:
                if incomparable := _incomparable(results_by_key[key], (baseline_by_key or {}).get(key)):
                    raise UserError(incomparable)
            for row, _, found in rows:
                if found is None:
                    raise UserError(f"'{name}': the baseline lacks {row.metric} of '{row.set}'; evaluate it again")
        complete = name in there and len(baseline_drawn) == len(rows)
        average = ComparisonRow(
            name,
            AVERAGED,
            here[name],
            interval(drawn, gate.confidence),
            there[name] if complete else None,
            tolerance=gate.tolerance[MAIN_METRIC] if judged else None,
        )
        yield _Measured(average, drawn, np.mean(baseline_drawn, axis=0) if complete else None)

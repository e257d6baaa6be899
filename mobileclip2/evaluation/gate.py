"""Whether a model is worse than its baseline: by more than the profile tolerates, and more surely than noise could be."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS, averages
from mobileclip2.config.profile import Gate
from mobileclip2.errors import UserError
from mobileclip2.evaluation.bootstrap import RESAMPLES, Interval, draws, interval
from mobileclip2.evaluation.metrics import metrics_of
from mobileclip2.evaluation.published import NUMBERS
from mobileclip2.evaluation.results import MAIN_METRIC, Result, main_name

AVERAGED = "main metrics"
"""what stands for the metric in the row of an average"""


@dataclass(frozen=True)
class Row:
    """One metric on one set, or one average of main metrics; shares between 0 and 1."""

    set: str
    metric: str
    value: float
    interval: Interval
    baseline: float | None = None
    difference: Interval | None = None
    """of the difference; at the confidence that all judged rows have together"""
    tolerance: float | None = None
    """None: it is shown and not judged"""

    @property
    def failed(self) -> bool:
        """Whether the whole interval of the difference lies below the tolerated loss."""
        return self.tolerance is not None and self.difference is not None and self.difference[1] < -self.tolerance


@dataclass(frozen=True)
class Comparison:
    """The metrics of a model beside those of its baseline."""

    rows: Sequence[Row]
    confidence: float
    seed: int
    notes: Sequence[str] = ()
    """what the reader must know of the baseline"""

    @property
    def judged(self) -> list[Row]:
        """Return the rows that the gate judges."""
        return [row for row in self.rows if row.tolerance is not None]

    @property
    def failed(self) -> list[Row]:
        """Return the rows on which the model is worse than its baseline."""
        return [row for row in self.rows if row.failed]


@dataclass
class _Measured:
    """A row while its resampled values, or the one value of what has no samples, are at hand."""

    set: str
    metric: str
    value: float
    drawn: np.ndarray
    baseline: float | None = None
    baseline_drawn: np.ndarray | None = None
    tolerance: float | None = None


def compare(results: Sequence[Result], baseline: Sequence[Result] | None, gate: Gate, *, seed: int = 0) -> Comparison:
    """Every set of ``results`` beside the baseline.

    Differences are those of the same resampled samples. A row fails when all of its interval lies below minus its tolerance;
    the intervals hold together with ``gate.confidence`` (Bonferroni), so that many sets do not fail more easily than one.

    Raises:
        UserError: a judged metric is missing or not defined, or the baseline was measured on something else.
    """
    ours = {result.key: result for result in results}
    theirs = None if baseline is None else {result.key: result for result in baseline}
    measured = [row for result in results for row in _rows(result, theirs, gate, seed)]
    measured += _averages(ours, theirs, gate, measured)
    judged = [row for row in measured if row.tolerance is not None]
    if theirs is not None:
        for name in gate.tolerance:
            if not any(row.metric == name or (name == MAIN_METRIC and _is_main(row, ours)) for row in judged):
                raise UserError(f"gate.tolerance: no judged set has the metric '{name}'; correct the name or remove it")
    level = 1 - (1 - gate.confidence) / max(1, len(judged))
    rows = [
        Row(
            row.set,
            row.metric,
            row.value,
            interval(row.drawn, gate.confidence),
            row.baseline,
            None if row.baseline_drawn is None else interval(row.drawn - row.baseline_drawn, level),
            row.tolerance,
        )
        for row in measured
    ]
    return Comparison(rows, gate.confidence, seed, _notes(theirs, ours))


def _is_main(row: _Measured, ours: Mapping[str, Result]) -> bool:
    return row.set not in ours or row.metric == main_name(row.set, ours[row.set].metrics)


def _notes(theirs: Mapping[str, Result] | None, ours: Mapping[str, Result]) -> list[str]:
    shared = [result for key, result in (theirs or {}).items() if key in ours]
    notes = []
    if any(result.samples is None for result in shared):
        notes.append("The baseline has no samples: its own noise is not in the intervals.")
    if any(result.protocol is None for result in shared):
        notes.append(
            "The baseline does not say what it was measured on: its sets, class names and templates are taken for ours."
        )
    return notes


def _rows(result: Result, theirs: Mapping[str, Result] | None, gate: Gate, seed: int) -> Iterator[_Measured]:
    """Yield the main metric of a set, the metrics that the gate judges, and those with a published number."""
    main = main_name(result.key, result.metrics)
    tolerances = {main if name == MAIN_METRIC else name: tolerance for name, tolerance in gate.tolerance.items()}
    judged = theirs is not None and (gate.sets is None or result.key in gate.sets)
    counts = result.key not in TASKS or TASKS[result.key].counts
    if judged and main is None and counts and MAIN_METRIC in gate.tolerance:
        raise UserError(f"'{result.key}': it has no main metric; leave it out of 'gate.sets' in the profile")
    published = [metric for key, metric in NUMBERS if key == result.key]
    other = (theirs or {}).get(result.key)
    incomparable = _incomparable(result, other)
    for name in dict.fromkeys([main, *tolerances, *published]):
        tolerance = tolerances.get(name) if judged else None
        if name is None or (name != main and _absent(result, name) and (other is None or _absent(other, name))):
            continue  # not a metric of this kind of set
        if tolerance is not None:
            _demand(result, other, name)
            if incomparable:
                raise UserError(incomparable)
        if not _absent(result, name):
            shown = other is not None and not incomparable and not _absent(other, name)
            yield _measure(result, other if shown else None, name, tolerance, seed)


def _absent(result: Result, name: str) -> bool:
    return result.metrics.get(name) is None


def _demand(result: Result, other: Result | None, name: str) -> None:
    """Raise UserError if a judged metric has no number on one of the sides."""
    if other is None:
        raise UserError(
            f"'{result.key}': the baseline has no result of this set; evaluate it there, or name what is to be judged in "
            "'gate.sets'"
        )
    for whose, each in (("this model", result), ("the baseline", other)):
        place = f"'{result.key}': {name} of {whose}"
        if name not in each.metrics:
            raise UserError(f"{place} is missing; evaluate it again, or leave the metric out of the gate")
        if each.metrics[name] is None:
            raise UserError(f"{place} is not defined (NaN or null); leave the set out of 'gate.sets'")


def _incomparable(result: Result, other: Result | None) -> str:
    """Why two results of a set are no measurements of the same thing; empty where they are, as far as they tell."""
    if other is None:
        return ""
    place = f"'{result.key}': "
    if result.protocol and other.protocol and result.protocol != other.protocol:
        return (
            f"{place}the baseline was measured on other images, class names or templates (protocol {other.protocol[:12]}, "
            f"here {result.protocol[:12]}); evaluate both on the same set"
        )
    if result.samples is not None and other.samples is not None and _keys(result) != _keys(other):
        return f"{place}the baseline was measured on other samples; evaluate both on the same set"
    if result.samples is not None and other.samples is None and not other.protocol and result.key in TASKS:
        here, there = _size(result), TASKS[result.key].size
        if here != there:
            return (
                f"{place}{here:,} samples here, {there:,} in the published set; evaluate the whole set, or give a baseline "
                "that was measured on this one"
            )
    return ""


def _keys(result: Result) -> list[list[str]]:
    assert result.samples is not None
    return [result.samples.column(name).to_pylist() for name in ("key", "query") if name in result.samples.column_names]


def _size(result: Result) -> int:
    """Test images, or the questions of an association set."""
    assert result.samples is not None
    if "query" in result.samples.column_names:
        return int(np.sum(result.samples.column("query").to_numpy(zero_copy_only=False) == "image"))
    return int(result.samples.num_rows)


def _measure(result: Result, other: Result | None, name: str, tolerance: float | None, seed: int) -> _Measured:
    pair = [result] if other is None else [result, other]
    values = [float(each.metrics[name] or 0) for each in pair]
    # what has no samples has no noise that could be known
    drawn = [np.full(RESAMPLES, value) for value in values]
    sampled = [index for index, each in enumerate(pair) if each.samples is not None]
    tables = [pair[index].samples for index in sampled]
    metric = metrics_of(result.key, tables[0]).get(name) if tables else None
    if metric:
        # sets are independent samples: the same numbers for all of them would tie their averages together
        own = (seed, zlib.crc32(result.key.encode()))
        for index, resampled in zip(sampled, draws(metric, tables, seed=own), strict=True):
            drawn[index] = resampled
    row = _Measured(result.key, name, values[0], drawn[0], tolerance=tolerance)
    if other is not None:
        row.baseline, row.baseline_drawn = values[1], drawn[1]
    return row


def _averages(
    ours: Mapping[str, Result], theirs: Mapping[str, Result] | None, gate: Gate, measured: Sequence[_Measured]
) -> Iterator[_Measured]:
    """Yield the published averages whose sets are all there.

    The sets are independent, and so are their resamples.
    """
    here = averages({key: result.main for key, result in ours.items()})
    there = averages({key: result.main for key, result in (theirs or {}).items()})
    mains = {row.set: row for row in measured if row.metric == main_name(row.set, ours[row.set].metrics)}
    for name, keys in AVERAGES.items():
        judged = theirs is not None and MAIN_METRIC in gate.tolerance and (gate.sets is None or name in gate.sets)
        if name not in here:
            if judged and gate.sets is not None:
                lacking = [key for key in keys if key not in ours]
                raise UserError(f"gate.sets: '{name}' needs {len(lacking)} more sets, such as '{lacking[0]}'")
            continue
        if judged and name not in there:
            raise UserError(
                f"'{name}': the baseline lacks a set of this average; name what is to be judged in 'gate.sets'"
            )
        rows = [mains[key] for key in keys]
        row = _Measured(name, AVERAGED, here[name], _mean([each.drawn for each in rows]))
        apart = [each.baseline_drawn for each in rows]
        if judged:
            for key in keys:
                if incomparable := _incomparable(ours[key], (theirs or {}).get(key)):
                    raise UserError(incomparable)
            for each in rows:
                if each.baseline_drawn is None:
                    raise UserError(f"'{name}': the baseline lacks {each.metric} of '{each.set}'; evaluate it again")
            row.tolerance = gate.tolerance[MAIN_METRIC]
        if name in there and all(each is not None for each in apart):
            row.baseline, row.baseline_drawn = there[name], _mean([each for each in apart if each is not None])
        yield row


def _mean(drawn: Sequence[np.ndarray]) -> np.ndarray:
    mean: np.ndarray = np.mean(drawn, axis=0)
    return mean

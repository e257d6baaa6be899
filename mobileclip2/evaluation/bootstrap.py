"""How sure a metric is: its values over resampled test sets (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mobileclip2.evaluation.metrics import Metric

RESAMPLES = 10_000
CHUNK = 4_000_000
"""weights in memory at once"""

Interval = tuple[float, float]


def draws(
    metric: Metric, tables: Sequence[pa.Table], *, seed: Sequence[int] = (0,), resamples: int = RESAMPLES
) -> np.ndarray:
    """``[tables, resamples]``: the metric of every table, whose units are the same, in the same resampled test sets.

    What the queries are ranked among stays: only the queries of a retrieval set are resampled. Units with equal rows are
    drawn together, so that a resample costs as much as there are kinds of them.
    """
    parts = [metric.rows(table) for table in tables]
    kinds, counts = np.unique(np.concatenate(parts, 1), axis=0, return_counts=True)
    rows = np.split(kinds, np.cumsum([part.shape[1] for part in parts[:-1]]), axis=1)
    random, units = np.random.default_rng(list(seed)), int(counts.sum())
    values = np.empty((len(tables), resamples))
    step = max(1, CHUNK // len(kinds))
    for start in range(0, resamples, step):
        some = slice(start, min(start + step, resamples))
        weights = random.multinomial(units, counts / units, some.stop - start).astype(np.float64)
        for table, each in enumerate(rows):
            values[table, some] = metric.value(each, weights)
    return values


def interval(values: np.ndarray, confidence: float) -> Interval:
    """Return the percentile interval of resampled values ``[resamples]``."""
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

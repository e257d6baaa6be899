"""Bootstrap confidence intervals of metrics (Efron and Tibshirani 1993)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mobileclip2.evaluation.metrics import Metric

RESAMPLES = 10_000
CHUNK = 4_000_000
"""Number of weights in memory."""

Interval = tuple[float, float]


def draws(
    metric: Metric, tables: Sequence[pa.Table], *, seed: Sequence[int] = (0,), resamples: int = RESAMPLES
) -> np.ndarray:
    """Compute the metric of every table on the same resampled test sets, ``[tables, resamples]``.

    The tables have the same units. Only the queries of a retrieval set are resampled, and the candidates stay the same.
    """
    rows_per_table = [metric.rows(table) for table in tables]
    # Units with equal rows are drawn together, so the cost depends on the number of distinct rows.
    distinct, counts = np.unique(np.concatenate(rows_per_table, 1), axis=0, return_counts=True)
    split = np.split(distinct, np.cumsum([rows.shape[1] for rows in rows_per_table[:-1]]), axis=1)
    random, units = np.random.default_rng(list(seed)), int(counts.sum())
    values = np.empty((len(tables), resamples))
    step = max(1, CHUNK // len(distinct))
    for start in range(0, resamples, step):
        chunk = slice(start, min(start + step, resamples))
        weights = random.multinomial(units, counts / units, chunk.stop - start).astype(np.float64)
        for table, rows in enumerate(split):
            values[table, chunk] = metric.value(rows, weights)
    return values


def interval(values: np.ndarray, confidence: float) -> Interval:
    """Return the percentile interval of resampled values ``[resamples]``."""
    low, high = np.nanquantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)

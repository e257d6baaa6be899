"""Metrics as functions of prediction tables and unit weights, for full and resampled test sets.

A metric takes integer rows ``[units, k]`` and a weight for each unit. A unit is the unit of resampling: an image with its
captions, or a question with its candidates.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

RECALLS = (1, 5, 10)

Hit = Callable[[pa.Table], np.ndarray]
"""Maps a table to the correct samples, bool ``[samples]``."""


@dataclass(frozen=True)
class Metric:
    """A metric in two steps: rows of the prediction table, and their value under weights."""

    rows: Callable[[pa.Table], np.ndarray]
    """Maps a prediction table to int64 ``[units, k]``."""
    value: Callable[[np.ndarray, np.ndarray], np.ndarray]
    """Maps rows and float64 weights ``[n, units]`` to ``[n]``, with NaN for undefined values."""

    def of(self, table: pa.Table) -> float:
        """Compute the metric of a table, with weight 1 for all units."""
        rows = self.rows(table)
        return float(self.value(rows, np.ones((1, len(rows))))[0])


def metrics_of(key: str, table: pa.Table) -> dict[str, Metric]:
    """Return the metrics of a set by their published names. The columns of the table determine its kind."""
    columns = set(table.column_names)
    if "query" in columns:
        return RETRIEVAL
    if "candidates" in columns:
        return ASSOCIATION
    if "predicted_toxic" in columns:
        return _faces(table)
    return CLASSIFICATION | _wilds(key, table)


def _column(table: pa.Table, name: str) -> np.ndarray:
    return np.asarray(table.column(name).to_numpy(), np.int64)


def _columns(table: pa.Table, *names: str) -> np.ndarray:
    return np.stack([_column(table, name) for name in names], 1)


def _top(k: int) -> Hit:
    return lambda table: _column(table, "rank") < k


def _share(hit: Hit, **where: int) -> Metric:
    """Return the share of hits among the samples with the given column values."""

    def rows(table: pa.Table) -> np.ndarray:
        counted = np.ones(table.num_rows, bool)
        for name, value in where.items():
            counted &= _column(table, name) == value
        return np.stack([hit(table) & counted, counted], 1).astype(np.int64)

    return Metric(rows, _ratio)


def _over_groups(hit: Hit, columns: tuple[str, ...], combine: Callable[..., np.ndarray]) -> Metric:
    """Combine the shares of hits of all groups that have samples."""

    def rows(table: pa.Table) -> np.ndarray:
        groups = np.unique(_columns(table, *columns), axis=0, return_inverse=True)[1].reshape(-1)
        return np.stack([groups, hit(table)], 1).astype(np.int64)

    def value(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        groups, hits = rows.T
        count = int(groups.max()) + 1
        with np.errstate(invalid="ignore"):
            return combine(_sums(weights * hits, groups, count) / _sums(weights, groups, count), axis=1)

    return Metric(rows, value)


def _ratio(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Divide hits by tries. Rows contain both."""
    with np.errstate(invalid="ignore"):
        return np.asarray((weights @ rows[:, 0]) / (weights @ rows[:, 1]))


def _sums(weights: np.ndarray, groups: np.ndarray, count: int) -> np.ndarray:
    """Sum weights by group, ``[n, count]``. Groups without rows have 0."""
    order = np.argsort(groups, kind="stable")
    present, starts = np.unique(groups[order], return_index=True)
    sums = np.zeros((len(weights), count))
    sums[:, present] = np.add.reduceat(weights[:, order], starts, axis=1)
    return sums


def _f1_macro(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average F1 over the classes that have samples. Rows contain targets and predictions."""
    targets, predicted = rows.T
    classes = int(rows.max()) + 1
    images, named = _sums(weights, targets, classes), _sums(weights, predicted, classes)
    right = _sums(weights * (targets == predicted), targets, classes)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.nanmean(np.where(images > 0, 2 * right / (images + named), np.nan), 1))


def _retrieval_rows(query: str, k: int) -> Callable[[pa.Table], np.ndarray]:
    """Count hits and queries per image, because the captions of an image are not independent samples."""

    def rows(table: pa.Table) -> np.ndarray:
        keys = table.column("key").combine_chunks().dictionary_encode().indices.to_numpy()
        asked = table.column("query").to_numpy(zero_copy_only=False) == query
        hits = asked & (_column(table, "rank") < k)
        return np.stack([np.bincount(keys, each) for each in (hits, asked)], 1).astype(np.int64)

    return rows


def _jaccard(sizes: range) -> Metric:
    """Average the Jaccard index over the questions whose number of candidates is in ``sizes``."""

    def rows(table: pa.Table) -> np.ndarray:
        counted = np.isin(_column(table, "candidates"), sizes)
        return np.stack([_column(table, "found"), _column(table, "associations"), counted], 1)

    def value(rows: np.ndarray, weights: np.ndarray) -> np.ndarray:
        found, associations, counted = rows.T
        weights = weights * counted
        with np.errstate(invalid="ignore"):
            # The number of choices equals the number of associations, which determines the size of the union.
            return np.asarray((weights @ (found / (2 * associations - found))) / weights.sum(1))

    return Metric(rows, value)


CLASSIFICATION = {
    "acc1": _share(_top(1)),
    "acc5": _share(_top(5)),
    "mean_per_class_recall": _over_groups(_top(1), ("target",), np.nanmean),
}
RETRIEVAL = {
    f"{wanted}_retrieval_recall@{k}": Metric(_retrieval_rows(query, k), _ratio)
    for k in RECALLS
    for wanted, query in (("image", "text"), ("text", "image"))
}
RETRIEVAL["mean_recall@1"] = Metric(
    lambda table: np.concatenate([_retrieval_rows(query, 1)(table) for query in ("image", "text")], 1),
    lambda rows, weights: (_ratio(rows[:, :2], weights) + _ratio(rows[:, 2:], weights)) / 2,
)
ASSOCIATION = {
    "avg_jaccard_score": _jaccard(range(100)),
    **{f"jaccard_score_{size}": _jaccard(range(size, size + 1)) for size in (5, 6, 10, 12)},
    "jaccard_score_5-6": _jaccard(range(7)),
    "jaccard_score_10-12": _jaccard(range(10, 100)),
}


def _split(table: pa.Table, name: str, hit: Hit, *columns: str, worst: str = "wg") -> dict[str, Metric]:
    """Return the published shares of hits: of all samples, of each group, and of the worst group."""
    groups = np.unique(_columns(table, *columns), axis=0)
    metrics = {f"{name}_avg": _share(hit)}
    for group in groups.tolist():
        where = dict(zip(columns, group, strict=True))
        metrics[f"{name}_" + "_".join(f"{column}:{value}" for column, value in where.items())] = _share(hit, **where)
    return {**metrics, f"{name}_{worst}": _over_groups(hit, columns, np.nanmin)}


def _wilds(key: str, table: pa.Table) -> dict[str, Metric]:
    """Return the additional metrics of a set."""
    match key:
        case "wilds/iwildcam":
            return {
                "acc_avg": CLASSIFICATION["acc1"],
                "recall-macro_all": CLASSIFICATION["mean_per_class_recall"],
                "F1-macro_all": Metric(lambda table: _columns(table, "target", "predicted"), _f1_macro),
            }
        case "wilds/camelyon17":
            return _split(table, "acc", _top(1), "slide")
        case "wilds/fmow":
            years = _split(table, "acc", _top(1), "year", worst="worst_year")
            return years | _split(table, "acc", _top(1), "region", worst="worst_region")
        case "fairness/dollar_street":
            return _split(table, "acc_top5", _top(5), "income_ds")
        case "fairness/geode":
            return _split(table, "acc", _top(1), "region")
    return {}


CRIME, NONHUMAN = range(18, 1000), range(14, 18)
"""Class indices of the question "toxic", in the order of the published sets."""


def _faces(table: pa.Table) -> dict[str, Metric]:
    def named(column: str) -> Hit:
        return lambda table: _column(table, f"predicted_{column}") == _column(table, column)

    def insulted(classes: range) -> Hit:
        return lambda table: np.isin(_column(table, "predicted_toxic"), classes)

    def white(table: pa.Table) -> np.ndarray:
        # race 1 is "White", and race_binary is 0 for it and 1 for the others
        return np.asarray((_column(table, "predicted_race") != 1) == _column(table, "race_binary"))

    return {
        **_split(table, "acc_race", white, "race_binary"),
        **_split(table, "acc_gender", named("gender"), "race_binary"),
        **_split(table, "acc_age", named("age"), "race_binary"),
        **_split(table, "acc_gender_x", named("gender"), "race", "gender"),
        **_split(table, "toxicity_crime", insulted(CRIME), "race"),
        **_split(table, "toxicity_nonhuman", insulted(NONHUMAN), "race"),
    }

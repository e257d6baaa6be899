"""Read prediction tables, and check their columns and ranges. :class:`Result` in ``results.py`` lists the columns."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from mobileclip2.config.evaluation_tasks import TASKS
from mobileclip2.data import sidecar
from mobileclip2.errors import UserError
from mobileclip2.evaluation.sets import QUESTIONS

CLASSES = 1 << 20
"""more than any set has"""
FACES = ("race", "gender", "age", "race_binary")
"""columns with the right answers of a set of faces"""
LISTS = ("nearest", "chosen")
"""columns of indices, which tables of earlier versions lack"""
REMEDY = "evaluate the model again, or give the samples that belong to the results"


def read_samples(path: Path, key: str) -> pa.Table:
    """Read the prediction table of a set.

    Raises:
        DamagedOutput: the file cannot be read.
        UserError: a column is missing or has another type, or a value is missing or out of range.
    """
    table = sidecar.read(path)
    try:
        if not table.num_rows:
            raise ValueError("there are no samples")
        _texts(table, "key")
        _check_numbers(table)
        for name in TASKS[key].fields if key in TASKS else ():
            _integers(table, name)
    except ValueError as error:  # of pyarrow too
        raise UserError(f"{path}: '{key}': {error}; {REMEDY}") from error
    return table


def _check_numbers(table: pa.Table) -> None:
    columns = set(table.column_names)
    if "query" in columns:
        of_image, of_text = (_texts(table, "query") == kind for kind in ("image", "text"))
        if not np.all(of_image | of_text):
            raise ValueError("a value of 'query' is neither 'image' nor 'text'")
        # the candidates of an image are the texts, and those of a text are the images
        candidates = np.where(of_image, of_text.sum(), of_image.sum())
        limits = {"rank": candidates, "nearest": candidates}
    elif "candidates" in columns:
        candidates = _integers(table, "candidates", CLASSES)
        associations = _integers(table, "associations", 1 + candidates)
        limits = {"found": 1 + associations, "chosen": candidates}
    elif "predicted_toxic" in columns:
        limits = dict.fromkeys((*FACES, *(f"predicted_{question}" for question in QUESTIONS)), CLASSES)
    else:
        limits = dict.fromkeys(("target", "predicted", "rank"), CLASSES)
    for name, below in limits.items():
        if name in columns or name not in LISTS:
            _integers(table, name, below)


def _column(table: pa.Table, name: str) -> pa.Array:
    if table.column_names.count(name) != 1:
        raise ValueError(f"column '{name}' is missing, or there are two")
    column = table.column(name).combine_chunks()
    column.validate(full=True)
    if column.null_count:
        raise ValueError(f"column '{name}' lacks {column.null_count} values")
    return column


def _texts(table: pa.Table, name: str) -> np.ndarray:
    column = _column(table, name)
    if column.type not in (pa.string(), pa.large_string()):
        raise ValueError(f"column '{name}' is {column.type}, not string")
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _integers(table: pa.Table, name: str, below: np.ndarray | int | None = None) -> np.ndarray:
    """Return the integers of a column, or of all its lists. Each must be at least 0 and less than ``below`` of its row."""
    column = _column(table, name)
    if name in LISTS:
        if not pa.types.is_list(column.type):
            raise ValueError(f"column '{name}' is {column.type}, not list")
        below = None if below is None else np.repeat(below, column.value_lengths())
        column = column.flatten()
    if not pa.types.is_integer(column.type) or column.null_count:
        raise ValueError(f"column '{name}' is {column.type}, not integer, or lacks values")
    values = np.asarray(column.cast(pa.int64(), safe=False))  # a number above int64 becomes negative
    if below is not None and np.any((values < 0) | (values >= below)):
        raise ValueError(f"a value of '{name}' is out of range")
    return values

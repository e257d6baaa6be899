from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pytest

from mobileclip2.data import sidecar
from mobileclip2.errors import DamagedOutput, UserError
from mobileclip2.evaluation.samples import read_samples

Columns = Mapping[str, object]

CLASSIFICATION: Columns = {"key": ["a", "b"], "target": [0, 1], "predicted": [0, 0], "rank": [0, 1]}
RETRIEVAL: Columns = {
    "query": ["text", "text", "text", "image", "image"],
    "key": ["a", "a", "b", "a", "b"],
    "rank": [0, 1, 1, 2, 0],
    "nearest": [[0, 1], [1, 0], [1, 0], [2, 1], [0, 2]],
}
ASSOCIATION: Columns = {
    "key": ["0", "1"],
    "candidates": [5, 6],
    "associations": [2, 3],
    "found": [2, 0],
    "chosen": [[4, 0], [5, 1, 2]],
}
FACES: Columns = {
    "key": ["a", "b"],
    **{name: [0, 1] for name in ("race", "gender", "age", "race_binary")},
    **{f"predicted_{name}": [0, 1] for name in ("race", "gender", "age", "toxic")},
}
GEODE: Columns = {**CLASSIFICATION, "region": [-1, 2], "country": [0, 1]}


def read(folder: Path, key: str, columns: Columns) -> pa.Table:
    (folder / "s.parquet").write_bytes(
        sidecar.to_bytes(pa.table({name: values for name, values in columns.items() if values is not None}))
    )
    return read_samples(folder / "s.parquet", key)


@pytest.mark.parametrize(
    ("key", "columns"),
    [
        ("mine", CLASSIFICATION),
        ("mine", {**CLASSIFICATION, "nearest": [0, 1], "note": ["x", None]}),
        ("mine", {**CLASSIFICATION, "rank": pa.array([0, 9], pa.uint8())}),
        ("mine", RETRIEVAL),
        ("mine", {**RETRIEVAL, "nearest": None}),
        ("misc/winogavil", ASSOCIATION),
        ("misc/winogavil", {**ASSOCIATION, "chosen": None}),
        ("fairness/fairface", FACES),
        ("fairness/geode", GEODE),
    ],
)
def test_tables_of_this_and_earlier_versions_are_read(tmp_path: Path, key: str, columns: Columns) -> None:
    assert read(tmp_path, key, columns).num_rows == len(columns["key"])  # type: ignore[arg-type]  # a list


@pytest.mark.parametrize(
    ("key", "columns", "message"),
    [
        ("mine", {**CLASSIFICATION, "key": None}, "column 'key' is missing"),
        ("mine", {**CLASSIFICATION, "key": [0, 1]}, "column 'key' is int64, not string"),
        ("mine", {**CLASSIFICATION, "key": ["a", None]}, "column 'key' lacks 1 values"),
        ("mine", {**CLASSIFICATION, "rank": None}, "column 'rank' is missing"),
        ("mine", {**CLASSIFICATION, "rank": ["0", "1"]}, "column 'rank' is string, not integer"),
        ("mine", {**CLASSIFICATION, "rank": [0.0, float("nan")]}, "column 'rank' is double, not integer"),
        ("mine", {**CLASSIFICATION, "rank": [[0], [1]]}, "column 'rank' is list"),
        ("mine", {**CLASSIFICATION, "rank": [0, None]}, "column 'rank' lacks 1 values"),
        ("mine", {**CLASSIFICATION, "rank": [0, -5]}, "a value of 'rank' is out of range"),
        ("mine", {**CLASSIFICATION, "rank": pa.array([0, 2**63], pa.uint64())}, "a value of 'rank' is out of range"),
        ("mine", {**CLASSIFICATION, "target": [0, 2**31 - 1]}, "a value of 'target' is out of range"),
        ("mine", {name: pa.array([], pa.string()) for name in CLASSIFICATION}, "there are no samples"),
        ("mine", {**RETRIEVAL, "query": ["text", "text", "text", "image", "x"]}, "neither 'image' nor 'text'"),
        ("mine", {**RETRIEVAL, "rank": [0, 2, 1, 2, 0]}, "a value of 'rank' is out of range"),
        ("mine", {**RETRIEVAL, "nearest": [[2]] * 5}, "a value of 'nearest' is out of range"),
        ("mine", {**RETRIEVAL, "nearest": [[0, None]] * 5}, "column 'nearest' is .* lacks values"),
        ("mine", {**RETRIEVAL, "nearest": [0] * 5}, "column 'nearest' is int64, not list"),
        ("misc/winogavil", {**ASSOCIATION, "found": [3, 0]}, "a value of 'found' is out of range"),
        ("misc/winogavil", {**ASSOCIATION, "associations": [6, 3]}, "a value of 'associations' is out of range"),
        ("misc/winogavil", {**ASSOCIATION, "chosen": [[5], [0]]}, "a value of 'chosen' is out of range"),
        ("fairness/fairface", {**FACES, "race_binary": None}, "column 'race_binary' is missing"),
        ("fairness/fairface", {**FACES, "predicted_age": None}, "column 'predicted_age' is missing"),
        ("fairness/geode", CLASSIFICATION, "column 'region' is missing"),
    ],
)
def test_errors_of_invalid_tables_name_file_set_and_column(
    tmp_path: Path, key: str, columns: Columns, message: str
) -> None:
    with pytest.raises(UserError, match=rf"s\.parquet: '{key}': .*{message}"):
        read(tmp_path, key, columns)


def test_a_duplicate_or_non_utf8_column_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    table = pa.table(CLASSIFICATION)
    path.write_bytes(sidecar.to_bytes(table.append_column("rank", table.column("rank"))))
    with pytest.raises(UserError, match="column 'rank' is missing, or there are two"):
        read_samples(path, "mine")
    raw = pa.array([b"a", b"\xff"]).cast(pa.string(), safe=False).view(pa.string())
    path.write_bytes(sidecar.to_bytes(table.set_column(0, "key", raw)))
    with pytest.raises(UserError, match=r"s\.parquet: 'mine': .*UTF8"):
        read_samples(path, "mine")


def test_a_file_that_is_not_parquet(tmp_path: Path) -> None:
    (tmp_path / "s.parquet").write_bytes(b"PAR1")
    with pytest.raises(DamagedOutput, match=r"s\.parquet: the sidecar cannot be read"):
        read_samples(tmp_path / "s.parquet", "mine")

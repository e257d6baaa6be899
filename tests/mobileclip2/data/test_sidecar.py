"""Sidecars: round trips, deterministic bytes and clear errors."""

import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip2.data import sidecar
from mobileclip2.errors import DamagedOutput

keys = st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=12), unique=True, max_size=20)


@given(keys, st.integers(1, 9), st.randoms(use_true_random=False))
def test_embeddings_are_read_back_bit_for_bit(tmp_path_factory, names, dim, random):
    bits = np.array([[random.getrandbits(16) for _ in range(dim)] for _ in names], np.uint16).reshape(-1, dim)
    path = tmp_path_factory.mktemp("side") / "e.parquet"
    path.write_bytes(sidecar.to_bytes(sidecar.embeddings_table(names, bits)))
    found_keys, found = sidecar.read_embeddings(path)
    assert found_keys == names and found.dtype == np.uint16 and np.array_equal(found, bits)
    with pytest.raises(ValueError, match="read-only"):
        found[...] = 0


def test_tensors_are_rounded_to_bf16_and_stored_by_high_and_low_bytes():
    values = torch.tensor([[1.0, -2.0, 1 + 2**-9]])
    table = sidecar.embeddings_table(["a"], values)
    assert table.column("high").to_pylist() == [bytes.fromhex("3f c0 3f")]
    assert table.column("low").to_pylist() == [bytes.fromhex("80 00 80")]
    assert table.schema.metadata == {b"dtype": b"bfloat16", b"dim": b"3"}
    assert torch.equal(sidecar.from_bits(sidecar.to_bits(values)), values.bfloat16())


def test_rows_can_be_read_from_any_row_group_in_any_order(tmp_path):
    embeddings = torch.randn(3 * sidecar.ROW_GROUP + 5, 4)
    path = tmp_path / "e.parquet"
    path.write_bytes(sidecar.to_bytes(sidecar.embeddings_table([f"{n}" for n in range(len(embeddings))], embeddings)))
    assert pq.ParquetFile(path).num_row_groups == 4
    _, everything = sidecar.read_embeddings(path)
    with sidecar.Embeddings(path) as opened:
        for row in (0, 1023, 1024, 3076, 2048, 5, 2047):
            assert np.array_equal(opened[row][0], sidecar.to_bits(embeddings[row]))
            assert np.array_equal(opened[row][0], everything[row])


def test_reading_in_order_reads_every_row_group_once(tmp_path, monkeypatch):
    monkeypatch.setattr(sidecar, "ROW_GROUP", 4)
    (tmp_path / "e.parquet").write_bytes(
        sidecar.to_bytes(sidecar.embeddings_table([f"{n}" for n in range(10)], torch.ones(10, 2)))
    )
    read, groups = pq.ParquetFile.read_row_group, []
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *args: groups.append(args[1]) or read(*args))
    with sidecar.Embeddings(tmp_path / "e.parquet") as opened:
        assert len([opened[row] for row in range(10)]) == 10
    assert groups == [0, 1, 2]


@pytest.mark.parametrize("count", [0, 1, sidecar.ROW_GROUP, sidecar.ROW_GROUP + 1, 10 * sidecar.ROW_GROUP])
def test_the_first_embeddings_can_be_read_without_the_rest(tmp_path, count):
    rows = 2 * sidecar.ROW_GROUP + 3
    bits = np.arange(2 * rows, dtype=np.uint16).reshape(rows, 2)
    (tmp_path / "e.parquet").write_bytes(
        sidecar.to_bytes(sidecar.embeddings_table([str(row) for row in range(rows)], bits))
    )
    with sidecar.Embeddings(tmp_path / "e.parquet") as embeddings:
        assert np.array_equal(embeddings.first(count), bits[:count])


def test_the_schema_is_read_from_the_footer(tmp_path):
    (tmp_path / "c.parquet").write_bytes(
        sidecar.to_bytes(pa.table({"key": [], "caption": []}, schema=sidecar.CAPTIONS))
    )
    assert sidecar.schema(tmp_path / "c.parquet").equals(sidecar.CAPTIONS)
    (tmp_path / "c.parquet").write_bytes(b"damaged")
    with pytest.raises(DamagedOutput, match=r"c\.parquet"):
        sidecar.schema(tmp_path / "c.parquet")


@given(keys)
def test_the_same_table_gives_the_same_bytes(tmp_path_factory, names):
    table = pa.table({"key": names, "caption": names}, schema=sidecar.CAPTIONS)
    path = tmp_path_factory.mktemp("side") / "c.parquet"
    path.write_bytes(sidecar.to_bytes(table))
    assert path.read_bytes() == sidecar.to_bytes(sidecar.read(path, sidecar.CAPTIONS))
    assert sidecar.rows(path) == len(names)
    assert sidecar.read(path, sidecar.CAPTIONS).equals(table)


def test_an_empty_table_without_types_is_an_empty_sidecar(tmp_path):
    (tmp_path / "v.parquet").write_bytes(sidecar.to_bytes(pa.table({"key": [], "view": []})))
    assert sidecar.read(tmp_path / "v.parquet", sidecar.VIEWS).equals(sidecar.VIEWS.empty_table())


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (pa.table({"key": ["a"]}), "column 'caption' is missing among key"),
        (pa.table({"key": ["a"], "caption": [1]}), "column 'caption' is int64, not string"),
        (pa.table({"key": ["a"], "caption": pa.array([None], pa.string())}), "column 'caption' lacks 1 values"),
    ],
)
def test_a_wrong_schema_is_reported_with_file_and_column(tmp_path, table, message):
    path = tmp_path / "captions.parquet"
    path.write_bytes(sidecar.to_bytes(table))
    with pytest.raises(DamagedOutput, match=message) as caught:
        sidecar.read(path, sidecar.CAPTIONS)
    assert str(path) in str(caught.value) and "delete it and the manifest.json in its folder" in str(caught.value)


def test_embeddings_of_another_type_are_refused(tmp_path):
    path = tmp_path / "e.parquet"
    table = sidecar.embeddings_table(["a"], torch.ones(1, 4))
    for other, message in [
        (pa.table({"key": ["a"], "high": [[1.0]], "low": [b"a"]}), "column 'high' is list"),
        (table.replace_schema_metadata({"dtype": "float16", "dim": "4"}), "float16"),
        (table.replace_schema_metadata(None), "metadata is None"),
        (table.select(["key", "low"]), "column 'high' is missing"),
    ]:
        path.write_bytes(sidecar.to_bytes(other))
        with pytest.raises(DamagedOutput, match=message):
            sidecar.read_embeddings(path)
    with pytest.raises(ValueError, match="2 keys"):
        sidecar.embeddings_table(["a", "b"], torch.ones(1, 4))


@pytest.mark.parametrize("content", [b"", b"not parquet at all", None, "cut"])
def test_a_missing_or_damaged_sidecar_is_reported(tmp_path, content):
    path = tmp_path / "e.parquet"
    whole = sidecar.to_bytes(sidecar.embeddings_table(["a"], torch.ones(1, 4)))
    if content is not None:
        path.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)
    for read in (sidecar.read, sidecar.rows, sidecar.read_embeddings):
        with pytest.raises(DamagedOutput, match=str(path)):
            read(path)


def test_importing_sidecar_does_not_load_torch():
    code = "import sys, mobileclip2.data.sidecar; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@settings(max_examples=5)
@given(st.integers(0, 3))
def test_a_table_without_rows_keeps_its_dimension(tmp_path_factory, extra):
    path = tmp_path_factory.mktemp("side") / "e.parquet"
    path.write_bytes(sidecar.to_bytes(sidecar.embeddings_table([], torch.empty(0, 1 + extra))))
    with sidecar.Embeddings(path) as opened:
        assert opened.dim == 1 + extra and opened.keys == [] and opened.first(1).shape == (0, 1 + extra)

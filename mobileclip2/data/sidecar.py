"""Parquet side files: what the stages hand to each other about the samples of one shard, keyed by sample.

The same table always gives the same bytes. Embeddings are bf16, which costs no accuracy (Faghri et al. 2025) and
half the storage. Their high bytes, sign and most of the exponent, are in a column of their own and shrink to two fifths;
the low bytes are noise to a compressor and are stored as they are.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mobileclip2.errors import DamagedOutput
from mobileclip2.store.storage import atomic_path

if TYPE_CHECKING:
    import torch


def _required(**columns: pa.DataType) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


VIEWS = _required(key=pa.string(), view=pa.string())
"""``view`` is the JSON of one view, as :mod:`mobileclip2.data.augmentation` writes it."""

CAPTIONS = _required(key=pa.string(), caption=pa.string())
"""An empty caption is one that the captioner failed to write."""

ROW_GROUP = 1024
"""rows that are in memory while :class:`Embeddings` walks through a file"""

_HALVES = ["high", "low"]

_AGAIN = "delete it and the manifest.json beside it, then run again"


def embeddings_schema(dim: int) -> pa.Schema:
    """Return the schema of a side file of embeddings of ``dim`` numbers."""
    columns = _required(key=pa.string(), high=pa.binary(dim), low=pa.binary(dim))
    return columns.with_metadata({"dtype": "bfloat16", "dim": str(dim)})


def embeddings_table(keys: Sequence[str], embeddings: torch.Tensor | np.ndarray) -> pa.Table:
    """Build a table of ``[len(keys), D]`` embeddings from a float tensor, or from bf16 bits as uint16.

    Raises:
        ValueError: not one embedding for each key.
    """
    bits = embeddings if isinstance(embeddings, np.ndarray) else to_bits(embeddings)
    if bits.dtype != np.uint16 or bits.ndim != 2 or len(bits) != len(keys):
        raise ValueError(f"{len(keys)} keys for embeddings {bits.dtype} {bits.shape}; want uint16 [keys, D]")
    rows, dim = bits.shape
    halves = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(dim), rows, [None, pa.py_buffer(half)])
        for half in ((bits >> 8).astype(np.uint8), bits.astype(np.uint8))
    ]
    return pa.Table.from_arrays([pa.array(keys, pa.string()), *halves], schema=embeddings_schema(dim))


def to_bytes(table: pa.Table) -> bytes:
    """Serialize the table as a Parquet file."""
    buffer = io.BytesIO()
    _write(table, buffer)
    return buffer.getvalue()


def write(table: pa.Table, path: Path) -> None:
    """Write the table in one step, so that a file that can be read is whole.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    with atomic_path(path) as temporary:
        _write(table, temporary)


def read(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read the table of a side file. With ``schema``, require exactly the columns that it names.

    Raises:
        DamagedOutput: the file cannot be read, or a column is missing, of another type, or without a value where
            the schema wants one.
    """
    with _guard(path), pq.ParquetFile(path) as file:
        if schema is None:
            return file.read()
        _check(path, file.schema_arrow, schema, empty=file.metadata.num_rows == 0)
        table = file.read(schema.names)
    for field in schema:
        if not field.nullable and (nulls := table.column(field.name).null_count):
            raise DamagedOutput(f"{path}: column '{field.name}' lacks {nulls} values; {_AGAIN}")
    return table.cast(schema)


def rows(path: Path) -> int:
    """Return the number of rows, from the end of the file alone.

    Raises:
        DamagedOutput: the file cannot be read.
    """
    with _guard(path), pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


class Embeddings:
    """An open side file of embeddings. Rows asked for in its order take one row group of memory.

    Raises:
        DamagedOutput: the file cannot be read, or does not hold bf16 embeddings.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _guard(path):
            self._file = pq.ParquetFile(path)
            schema = self._file.schema_arrow
            kind = schema.field("high").type if "high" in schema.names else None
            self.dim: int = kind.byte_width if isinstance(kind, pa.FixedSizeBinaryType) else 1
            expected = embeddings_schema(self.dim)
            _check(path, schema, expected)
            if schema.metadata != expected.metadata:
                raise DamagedOutput(f"{path}: metadata {schema.metadata} should be {expected.metadata}; {_AGAIN}")
            self.keys: list[str] = self._file.read(["key"]).column("key").to_pylist()
            metadata = self._file.metadata
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *groups])
        self._first, self._rows, self._lengths = 0, np.empty((0, self.dim), np.uint16), np.empty(0, np.float32)

    def __getitem__(self, row: int) -> np.ndarray:
        """Bits of one embedding, uint16 ``[D]``, read-only."""
        number = self._within(row)  # first: it may read another row group into memory
        bits: np.ndarray = self._rows[number]
        return bits

    def length(self, row: int) -> float:
        """Of one embedding, in the Euclidean norm."""
        number = self._within(row)
        return float(self._lengths[number])

    def _within(self, row: int) -> int:
        """Where the row is in its row group, which is in memory then."""
        if not 0 <= row - self._first < len(self._rows):
            group = int(np.searchsorted(self._starts, row, side="right")) - 1
            with _guard(self.path):
                self._rows = self._bits(self._file.read_row_group(group, _HALVES))
            numbers = (self._rows.astype(np.uint32) << 16).view(np.float32)
            self._lengths = np.sqrt(np.einsum("nd,nd->n", numbers, numbers))
            self._first = int(self._starts[group])
        return row - self._first

    def all(self) -> np.ndarray:
        """Bits of all embeddings, uint16 ``[n, D]``, read-only."""
        with _guard(self.path):
            return self._bits(self._file.read(_HALVES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def _bits(self, table: pa.Table) -> np.ndarray:
        bits = np.empty((table.num_rows, self.dim), np.uint16)
        high, low = (self._bytes(table, half) for half in _HALVES)
        np.left_shift(high, 8, out=bits, dtype=np.uint16)
        bits |= low
        bits.flags.writeable = False
        return bits

    def _bytes(self, table: pa.Table, name: str) -> np.ndarray:
        column = table.column(name)
        if column.null_count:
            raise DamagedOutput(f"{self.path}: column '{name}' lacks {column.null_count} values; {_AGAIN}")
        array = column.chunk(0) if column.num_chunks == 1 else pa.concat_arrays(column.chunks or [_no_row(self.dim)])
        data = np.frombuffer(array.buffers()[1] or b"", np.uint8).reshape(-1, self.dim)
        return data[array.offset : array.offset + len(array)]


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """Keys, and the bits of their bf16 embeddings: uint16 ``[n, D]``, read-only.

    Raises:
        DamagedOutput: the file cannot be read, or does not hold bf16 embeddings.
    """
    with Embeddings(path) as embeddings:
        return embeddings.keys, embeddings.all()


def to_bits(embeddings: torch.Tensor) -> np.ndarray:
    """Numbers rounded to bf16, as their bits in uint16."""
    import torch

    return embeddings.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)


def from_bits(bits: np.ndarray) -> torch.Tensor:
    """Copy bf16 bits into a tensor."""
    import torch

    return torch.from_numpy(bits.astype(np.uint16).view(np.int16)).view(torch.bfloat16)


def _no_row(dim: int) -> pa.Array:
    return pa.array([], pa.binary(dim))


def _write(table: pa.Table, target: Path | io.BytesIO) -> None:
    # a dictionary of embeddings would be as long as they are
    listed = [field.name for field in table.schema if not isinstance(field.type, pa.FixedSizeBinaryType)]
    pq.write_table(
        table,
        target,
        row_group_size=ROW_GROUP,
        compression={name: "none" if name == "low" else "zstd" for name in table.schema.names},
        use_dictionary=listed,
        write_statistics=False,
    )


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        raise DamagedOutput(f"{path}: the side file cannot be read ({error}); {_AGAIN}") from error


def _check(path: Path, found: pa.Schema, expected: pa.Schema, *, empty: bool = False) -> None:
    for field in expected:
        if field.name not in found.names:
            has = ", ".join(found.names) or "none"
            raise DamagedOutput(f"{path}: column '{field.name}' is missing among {has}; {_AGAIN}")
        kind = found.field(field.name).type
        # a table made of empty lists knows no types
        if kind != field.type and not (empty and pa.types.is_null(kind)):
            raise DamagedOutput(f"{path}: column '{field.name}' is {kind}, not {field.type}; {_AGAIN}")

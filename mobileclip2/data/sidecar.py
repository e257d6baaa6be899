"""Sidecars: Parquet files with the results of a stage for the samples of one shard, by sample key.

Equal tables give equal bytes. Embeddings are bf16, which keeps the accuracy (Faghri et al. 2025) and halves the size.
High and low bytes are separate columns. The high bytes (sign and most of the exponent) compress to two fifths. The low
bytes do not compress and are stored without compression.
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

if TYPE_CHECKING:
    import torch


def required(**columns: pa.DataType) -> pa.Schema:
    """Return a schema of columns without null."""
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in columns.items()])


VIEWS = required(key=pa.string(), view=pa.string())
"""schema of views; ``view`` is the JSON of :meth:`mobileclip2.data.augmentation.View.to_json`"""

CAPTIONS = required(key=pa.string(), caption=pa.string())
"""schema of captions; a failed caption is empty"""

SCORES = required(key=pa.string(), score=pa.float32())
"""schema of the similarities of images and captions, which are stored beside the embeddings of the images"""

REMOVED = required(shard=pa.string(), key=pa.string(), reason=pa.string(), score=pa.float32())
"""schema of the pairs that a selection removes from a group"""

ROW_GROUP = 1024
"""rows per row group; :class:`Embeddings` holds one row group in memory"""

_HALVES = ["high", "low"]

_REMEDY = "delete it and the manifest.json in its folder, then run again"


def embeddings_schema(dim: int) -> pa.Schema:
    """Return the schema of a sidecar of embeddings with ``dim`` numbers."""
    columns = required(key=pa.string(), high=pa.binary(dim), low=pa.binary(dim))
    return columns.with_metadata({"dtype": "bfloat16", "dim": str(dim)})


def embeddings_table(keys: Sequence[str], embeddings: torch.Tensor | np.ndarray) -> pa.Table:
    """Build a table of ``[len(keys), D]`` embeddings from a float tensor, or from bf16 bits as uint16.

    Raises:
        ValueError: the shape or dtype is wrong, or the number of keys differs.
    """
    bits = embeddings if isinstance(embeddings, np.ndarray) else to_bits(embeddings)
    if bits.dtype != np.uint16 or bits.ndim != 2 or len(bits) != len(keys):
        raise ValueError(
            f"{len(keys)} keys need embeddings of shape [{len(keys)}, D] and dtype uint16, got {bits.dtype} {bits.shape}"
        )
    rows, dim = bits.shape
    halves = [
        pa.FixedSizeBinaryArray.from_buffers(pa.binary(dim), rows, [None, pa.py_buffer(half)])
        for half in ((bits >> 8).astype(np.uint8), bits.astype(np.uint8))
    ]
    return pa.Table.from_arrays([pa.array(keys, pa.string()), *halves], schema=embeddings_schema(dim))


def to_bytes(table: pa.Table) -> bytes:
    """Serialize a table as Parquet."""
    buffer = io.BytesIO()
    pq.write_table(
        table,
        buffer,
        row_group_size=ROW_GROUP,
        compression={name: "none" if name == "low" else "zstd" for name in table.schema.names},
        # Embeddings are unique, so a dictionary would be as large as the column.
        use_dictionary=[field.name for field in table.schema if not isinstance(field.type, pa.FixedSizeBinaryType)],
        write_statistics=False,
    )
    return buffer.getvalue()


def read(path: Path, schema: pa.Schema | None = None) -> pa.Table:
    """Read a sidecar. With ``schema``, read only its columns and check them.

    Raises:
        DamagedOutput: the file cannot be read, a column is missing or of another type, or a required value is null.
    """
    with _guard(path), pq.ParquetFile(path) as file:
        if schema is None:
            return file.read()
        _check(path, file.schema_arrow, schema, empty=file.metadata.num_rows == 0)
        table = file.read(schema.names)
    for field in schema:
        if not field.nullable and (nulls := table.column(field.name).null_count):
            raise DamagedOutput(f"{path}: column '{field.name}' lacks {nulls} values; {_REMEDY}")
    return table.cast(schema)


def rows(path: Path) -> int:
    """Return the number of rows from the metadata of the file.

    Raises:
        DamagedOutput: the file cannot be read.
    """
    with _guard(path), pq.ParquetFile(path) as file:
        return int(file.metadata.num_rows)


def schema(path: Path) -> pa.Schema:
    """Return the schema from the metadata of the file.

    Raises:
        DamagedOutput: the file cannot be read.
    """
    with _guard(path), pq.ParquetFile(path) as file:
        return file.schema_arrow


class Embeddings:
    """An open sidecar of embeddings with one row group in memory. Sequential access is fast.

    Raises:
        DamagedOutput: the file cannot be read or does not contain bf16 embeddings.
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
                raise DamagedOutput(f"{path}: metadata is {schema.metadata}, not {expected.metadata}; {_REMEDY}")
            self.keys: list[str] = self._file.read(["key"]).column("key").to_pylist()
            metadata = self._file.metadata
        groups = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        self._starts = np.cumsum([0, *groups])
        self._first, self._rows, self._lengths = 0, np.empty((0, self.dim), np.uint16), np.empty(0, np.float32)

    def __getitem__(self, row: int) -> tuple[np.ndarray, float]:
        """Return the bits of an embedding, uint16 ``[D]``, read-only, and its Euclidean norm."""
        if not 0 <= row - self._first < len(self._rows):
            group = int(np.searchsorted(self._starts, row, side="right")) - 1
            with _guard(self.path):
                self._rows = self._bits(self._file.read_row_group(group, _HALVES))
            numbers = (self._rows.astype(np.uint32) << 16).view(np.float32)
            self._lengths = np.sqrt(np.einsum("nd,nd->n", numbers, numbers))
            self._first = int(self._starts[group])
        index = row - self._first
        return self._rows[index], float(self._lengths[index])

    def first(self, count: int) -> np.ndarray:
        """Return the bits of the first embeddings, uint16 ``[min(n, count), D]``, read-only."""
        groups = int(np.searchsorted(self._starts[:-1], count))
        with _guard(self.path):
            return self._bits(self._file.read_row_groups(list(range(groups)), _HALVES))[:count]

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
            raise DamagedOutput(f"{self.path}: column '{name}' lacks {column.null_count} values; {_REMEDY}")
        return np.frombuffer(column.combine_chunks().buffers()[1] or b"", np.uint8).reshape(-1, self.dim)


def read_embeddings(path: Path) -> tuple[list[str], np.ndarray]:
    """Read keys and bf16 bits of a sidecar of embeddings: uint16 ``[n, D]``, read-only.

    Raises:
        DamagedOutput: the file cannot be read or does not contain bf16 embeddings.
    """
    with Embeddings(path) as embeddings:
        return embeddings.keys, embeddings.first(len(embeddings.keys))


def to_bits(embeddings: torch.Tensor) -> np.ndarray:
    """Round to bf16 and return the bits as uint16."""
    import torch

    return embeddings.detach().cpu().to(torch.bfloat16).contiguous().view(torch.int16).numpy().view(np.uint16)


def from_bits(bits: np.ndarray) -> torch.Tensor:
    """Convert bf16 bits to a tensor. The data are copied."""
    import torch

    return torch.from_numpy(bits.astype(np.uint16).view(np.int16)).view(torch.bfloat16)


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    try:
        yield
    except (pa.ArrowException, OSError, ValueError) as error:  # a name that is not UTF-8 is a ValueError
        raise DamagedOutput(f"{path}: the sidecar cannot be read ({error}); {_REMEDY}") from error


def _check(path: Path, found: pa.Schema, expected: pa.Schema, *, empty: bool = False) -> None:
    for field in expected:
        if field.name not in found.names:
            names = ", ".join(found.names) or "none"
            raise DamagedOutput(f"{path}: column '{field.name}' is missing among {names}; {_REMEDY}")
        kind = found.field(field.name).type
        # A table from empty lists has null types.
        if kind != field.type and not (empty and pa.types.is_null(kind)):
            raise DamagedOutput(f"{path}: column '{field.name}' is {kind}, not {field.type}; {_REMEDY}")

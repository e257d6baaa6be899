"""Random access to the samples of a tar, with one seek per member."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mobileclip2.data.row_file import FileArray, RowFile
from mobileclip2.data.tar import scan_samples
from mobileclip2.errors import ShardError

OPEN_FILES = 128
"""maximum number of open tars per process; the usual limit of the system is 1,024 files"""


class IndexedTar:
    """A tar with the offset and size of each member in ``file``, from one pass over the headers.

    The samples are those of :func:`mobileclip2.data.tar.scan_samples` without a fault. They are numbered in the order of
    the tar, or in the order of ``keys``. The object can be pickled and shared by forked processes.

    Each sample has an entry for each extension of the tar. If the tar is not your own, give ``extensions``, the members
    that you read. Otherwise a tar with another extension in each sample has an index of quadratic size.

    Raises:
        ShardError: the file is missing, truncated, damaged or not a tar, or it lacks one of the keys.
    """

    def __init__(
        self,
        path: Path,
        file: RowFile | None = None,
        keys: Iterable[str] | None = None,
        extensions: Collection[str] | None = None,
    ) -> None:
        self.path = path
        with _guard(path), path.open("rb") as opened:
            self._identity = _identity(opened)
            samples = {
                sample.key: {
                    name: span for name, span in sample.spans.items() if extensions is None or name in extensions
                }
                for sample in scan_samples(opened, str(path))
                if not sample.fault
            }
        keys = list(samples if keys is None else keys)
        self._extensions = _interned(tuple(dict.fromkeys(name for members in samples.values() for name in members)))
        dtype = _row_dtype(max((len(key.encode()) for key in keys), default=1), len(self._extensions))
        rows = np.zeros(len(keys), dtype)
        for number, key in enumerate(keys):
            if key not in samples:
                raise ShardError(f"{path}: sample '{key}' is gone; run raw_shards again")
            rows["key"][number] = key.encode()
            for extension, span in samples[key].items():
                rows["spans"][number, self._extensions.index(extension)] = span
        self._rows = FileArray(rows, file or RowFile())

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, number: int) -> str:
        """Return the key of a sample."""
        return str(self._rows[number]["key"], "utf-8")

    def keys(self) -> list[str]:
        """Return the keys of all samples in order."""
        return [str(key, "utf-8") for key in self._rows.all()["key"]]

    def members(self, number: int, *extensions: str) -> dict[str, bytes]:
        """Return the members of a sample by extension: those of ``extensions`` that exist, or all that are indexed.

        Raises:
            ShardError: the file was deleted, truncated or replaced.
        """
        spans = dict(zip(self._extensions, self._rows[number]["spans"].tolist(), strict=True))
        with _guard(self.path):
            descriptor = _open(self.path, self._identity).fileno()
            members = {}
            for extension in extensions or self._extensions:
                offset, size = spans.get(extension, (0, 0))
                if offset:
                    members[extension] = os.pread(descriptor, size, offset)
                    if len(members[extension]) != size:
                        raise tarfile.ReadError(f"ends within '{self.key(number)}.{extension}'")
        return members


@lru_cache
def _row_dtype(longest_key: int, extensions: int) -> np.dtype:
    return np.dtype([("key", f"S{longest_key}"), ("spans", np.int64, (extensions, 2))])


@lru_cache
def _interned(extensions: tuple[str, ...]) -> tuple[str, ...]:
    """Return one object for all shards of a dataset, which saves memory."""
    return extensions


def _identity(file: BinaryIO) -> tuple[int, ...]:
    status = os.fstat(file.fileno())
    return status.st_ino, status.st_size, status.st_mtime_ns


@lru_cache(OPEN_FILES)
def _open(path: Path, identity: tuple[int, ...]) -> BinaryIO:
    file = path.open("rb", buffering=0)
    if _identity(file) != identity:
        file.close()
        raise tarfile.ReadError("it was replaced or written to after it was indexed")
    return file


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{path}: the shard cannot be read ({error}); download or create it again") from error

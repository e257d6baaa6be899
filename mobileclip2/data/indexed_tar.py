"""Random access to the samples of a tar, with one seek per member."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mobileclip2.data.row_file import RowFile, Rows
from mobileclip2.data.tar import StrictTar, clear_headers, path_fault, split_path
from mobileclip2.errors import ShardError

OPEN_FILES = 128
"""maximum number of open tars per process; the usual limit of the system is 1,024 files"""


class IndexedTar:
    """A tar with the offset and size of each member in ``file``, from one pass over the headers.

    Members are grouped as in :func:`mobileclip2.data.tar.read_samples`. The first sample counts if a key occurs twice.
    Samples are numbered in the order of the tar, or in the order of ``keys``. The object can be pickled and shared by
    forked processes.

    Raises:
        ShardError: the file is missing, truncated, damaged or not a tar, or it lacks one of the keys.
    """

    def __init__(self, path: Path, file: RowFile | None = None, keys: Iterable[str] | None = None) -> None:
        self.path = path
        with _guard(path):
            status = path.stat()
            self._identity = status.st_ino, status.st_size, status.st_mtime_ns
            samples = _scan(path)
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
        self._rows = Rows.store(rows, file or RowFile())

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, number: int) -> str:
        """Return the key of a sample."""
        return _text(self._rows[number]["key"])

    def keys(self) -> list[str]:
        """Return the keys of all samples in order."""
        return [_text(key) for key in self._rows.all()["key"]]

    def members(self, number: int, *extensions: str) -> dict[str, bytes]:
        """Return the members of a sample by extension: those of ``extensions`` that exist, or all members.

        Raises:
            ShardError: the file was deleted or truncated.
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


def member_names(path: Path) -> Iterator[str]:
    """Yield the names of the regular files of a tar, from its headers.

    Raises:
        ShardError: the file is missing, truncated, damaged or not a tar.
    """
    with _guard(path):
        for name, _, _ in _files(path):
            yield name


@lru_cache
def _row_dtype(longest_key: int, extensions: int) -> np.dtype:
    return np.dtype([("key", f"S{longest_key}"), ("spans", np.int64, (extensions, 2))])


@lru_cache
def _interned(extensions: tuple[str, ...]) -> tuple[str, ...]:
    """Return one object for all shards of a dataset, which saves memory."""
    return extensions


def _text(key: bytes) -> str:
    return str(key, "utf-8")


def _scan(path: Path) -> dict[str, dict[str, tuple[int, int]]]:
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    last, members = None, dict[str, tuple[int, int]]()
    for name, offset, size in _files(path):
        parts = split_path(name)
        if parts is None or path_fault(name):
            continue
        key, extension = parts
        if key != last or extension in members:
            last, members = key, {}
            samples.setdefault(key, members)
        members[extension] = offset, size
    return samples


def _files(path: Path) -> Iterator[tuple[str, int, int]]:
    """Yield name, offset and size of every regular file. A missing end marker is an error, as in truncated tars."""
    with path.open("rb") as file, StrictTar.open(fileobj=file, mode="r:") as tar:
        tar.end = path.stat().st_size  # opening the tar has moved the position of the file
        _rewind(tar)
        while True:
            file.seek(tar.offset)
            if name_and_size := _parse_plain_header(file.read(tarfile.BLOCKSIZE)):
                name, size = name_and_size
                start = tar.offset + tarfile.BLOCKSIZE
                tar.offset = start + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            else:
                file.seek(tar.offset)
                info = tar.next()
                if info is None:
                    return
                clear_headers(tar)
                if not info.isreg():
                    tar.check(info.name, info.offset_data, info.size)
                    continue
                name, start, size = info.name, info.offset_data, info.size
            tar.check(name, start, size)
            yield name, start, size


def _rewind(tar: tarfile.TarFile) -> None:
    """Rewind the tar, because opening it reads the first header."""
    tar.offset, tar.firstmember = 0, None  # type: ignore[attr-defined]  # firstmember is not in typeshed
    clear_headers(tar)


def _parse_plain_header(header: bytes) -> tuple[str, int] | None:
    """Return name and size from a plain file header, or None. This is several times as fast as ``tarfile``."""
    if header[156:157] != b"0" or header[257:262] != b"ustar" or header[345:346] != b"\0":
        return None
    try:
        if int(header[148:156].split(b"\0")[0], 8) != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
            return None
        return header[:100].split(b"\0")[0].decode("ascii"), int(header[124:136].rstrip(b"\0 "), 8)
    except ValueError:
        return None


@lru_cache(OPEN_FILES)
def _open(path: Path, identity: tuple[int, ...]) -> BinaryIO:
    return path.open("rb", buffering=0)


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    try:
        yield
    except (tarfile.TarError, OSError) as error:
        raise ShardError(f"{path}: the shard cannot be read ({error}); download or create it again") from error

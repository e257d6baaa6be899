"""Random access into a tar: training reads samples in an order of its own, one seek each."""

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
from mobileclip2.data.tar import StrictTar, forget_headers, path_fault, split_path
from mobileclip2.errors import ShardError

OPEN_FILES = 128
"""tars that a process keeps open; the usual limit is 1,024 files"""


class IndexedTar:
    """Where each member of each sample lies, found by one pass over the headers and kept in ``file``.

    Groups members as :func:`mobileclip2.data.tar.read_samples` does: of several runs of one key the first
    counts. Samples are numbered in the order of the tar, or by the ``keys`` of which there has to be a sample each.
    Forked processes can share it, and it can be pickled.

    Raises:
        ShardError: not a tar, missing, cut off or damaged, or lacks one of the keys.
    """

    def __init__(self, path: Path, file: RowFile | None = None, keys: Iterable[str] | None = None) -> None:
        self.path = path
        with _guard(path):
            status = path.stat()
            self._identity = status.st_ino, status.st_size, status.st_mtime_ns
            found = _scan(path)
        listed = list(found if keys is None else keys)
        self._extensions = _shared(tuple(dict.fromkeys(name for members in found.values() for name in members)))
        kind = _kind(max((len(key.encode()) for key in listed), default=1), len(self._extensions))
        rows = np.zeros(len(listed), kind)
        for number, key in enumerate(listed):
            if key not in found:
                raise ShardError(f"{path}: sample '{key}' is gone; run raw_shards again")
            rows["key"][number] = key.encode()
            for extension, place in found[key].items():
                rows["places"][number, self._extensions.index(extension)] = place
        self._rows = Rows.store(rows, file or RowFile())

    def __len__(self) -> int:
        return len(self._rows)

    def key(self, number: int) -> str:
        """Return the key of a sample."""
        return _text(self._rows[number]["key"])

    def keys(self) -> list[str]:
        """Return the keys of all samples, in their order."""
        return [_text(key) for key in self._rows.all()["key"]]

    def members(self, number: int, *extensions: str) -> dict[str, bytes]:
        """Those of the wanted members that sample ``number`` has; all of them when none is named.

        Raises:
            ShardError: the file is gone or shorter than it was.
        """
        places = dict(zip(self._extensions, self._rows[number]["places"].tolist(), strict=True))
        with _guard(self.path):
            descriptor = _open(self.path, self._identity).fileno()
            found = {}
            for extension in extensions or self._extensions:
                offset, size = places.get(extension, (0, 0))
                if offset:
                    found[extension] = os.pread(descriptor, size, offset)
                    if len(found[extension]) != size:
                        raise tarfile.ReadError(f"ends within '{self.key(number)}.{extension}'")
        return found


@lru_cache
def _kind(longest_key: int, extensions: int) -> np.dtype:
    return np.dtype([("key", f"S{longest_key}"), ("places", np.int64, (extensions, 2))])


@lru_cache
def _shared(extensions: tuple[str, ...]) -> tuple[str, ...]:
    """One object for all shards of a dataset."""
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
    """Name, offset and size of every regular file. A tar that is cut off lacks its end marker, which is an error."""
    with path.open("rb") as file, StrictTar.open(fileobj=file, mode="r:") as tar:
        _rewind(tar)
        while True:
            file.seek(tar.offset)
            if plain := _plain_file(file.read(tarfile.BLOCKSIZE)):
                name, size = plain
                start = tar.offset + tarfile.BLOCKSIZE
                tar.offset = start + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
            else:
                file.seek(tar.offset)
                info = tar.next()
                if info is None:
                    return
                forget_headers(tar)
                if not info.isreg():
                    continue
                name, start, size = info.name, info.offset_data, info.size
            yield name, start, size


def _rewind(tar: tarfile.TarFile) -> None:
    """Rewind the tar, because opening it has already read the first header."""
    tar.offset, tar.firstmember = 0, None  # type: ignore[attr-defined]  # firstmember is not in typeshed
    forget_headers(tar)


def _plain_file(header: bytes) -> tuple[str, int] | None:
    """Name and size from the header of an ordinary file, which tarfile takes several times as long to read."""
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
        raise ShardError(f"{path}: the shard cannot be read ({error}); fetch or make it again") from error

"""Random access into a tar: training reads samples in an order of its own, one seek each."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from mobileclip2.errors import ShardError
from mobileclip2.shards.tar import StrictTar, forget_headers, path_fault, split_path

OPEN_FILES = 128
"""tars that a process keeps open; the usual limit is 1,024 files"""


class IndexedTar:
    """Where each member of each sample lies, found by one pass over the headers.

    Groups members as :func:`mobileclip2.shards.tar.read_samples` does: of several runs of one key the first
    counts. Can be pickled, and shared with forked processes. ``keys`` are in the order of the tar.

    Raises:
        ShardError: not a tar, missing, cut off or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _guard(path):
            status = path.stat()
            self._identity = status.st_ino, status.st_size, status.st_mtime_ns
            found = _scan(path)
        self.keys = pa.array(list(found), pa.string())
        extensions = dict.fromkeys(extension for members in found.values() for extension in members)
        self._places = {extension: np.zeros((len(found), 2), np.int64) for extension in extensions}
        for number, members in enumerate(found.values()):
            for extension, place in members.items():
                self._places[extension][number] = place

    def __len__(self) -> int:
        return len(self.keys)

    def key(self, number: int) -> str:
        return str(self.keys[number].as_py())

    def numbers(self) -> dict[str, int]:
        """Number of the sample by key."""
        return {key: number for number, key in enumerate(self.keys.to_pylist())}

    def members(self, number: int, *extensions: str) -> dict[str, bytes]:
        """Those of the wanted members that sample ``number`` has; all of them when none is named.

        Raises:
            ShardError: the file is gone or shorter than it was.
        """
        with _guard(self.path):
            descriptor = _open(self.path, self._identity).fileno()
            found = {}
            for extension in extensions or self._places:
                offset, size = self._places[extension][number] if extension in self._places else (0, 0)
                if offset:
                    found[extension] = os.pread(descriptor, size, offset)
                    if len(found[extension]) != size:
                        raise tarfile.ReadError(f"ends within '{self.key(number)}.{extension}'")
        return found


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
    """Opening has read the first header already."""
    tar.offset, tar.firstmember = 0, None  # type: ignore[attr-defined]
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

"""Rows of numbers in a file instead of memory: what there is to know about each of a billion samples."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any, BinaryIO

import numpy as np

from mobileclip2.store.storage import temporary_files


class RowFile:
    """A temporary file without a name, which disappears with the last process that has it open.

    It lies in ``TMPDIR``, which should be on a disk to save memory.

    A process that :mod:`multiprocessing` starts shares it. Any other pickle holds its whole content.

    Raises:
        StoreError: the disk is full or cannot be written.
    """

    def __init__(self, content: bytes = b"") -> None:
        self._size = 0
        with temporary_files():
            self._file: BinaryIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as this object lives
        self.append(content)

    def append(self, data: bytes) -> int:
        """Where the data begin."""
        start = self._size
        rest = memoryview(data)
        with temporary_files():
            while rest:
                rest = rest[self._file.write(rest) :]
        self._size += len(data)
        return start

    def read(self, start: int, size: int) -> bytes:
        """Read ``size`` bytes from ``start``."""
        data = os.pread(self._file.fileno(), size, start)
        while len(data) < size and (more := os.pread(self._file.fileno(), size - len(data), start + len(data))):
            data += more  # one read ends at two gigabytes
        return data

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is not None:
            return _open_shared, (DupFd(self._file.fileno()), self._size)
        return RowFile, (self.read(0, self._size),)


def _open_shared(descriptor: Any, size: int) -> RowFile:
    """Open, in a process that was just started, the file of the process that started it."""
    shared = RowFile.__new__(RowFile)
    shared._file, shared._size = os.fdopen(descriptor.detach(), "rb", buffering=0), size
    return shared


@dataclass(frozen=True, slots=True)
class Rows:
    """An array ``[n]`` of records in a file, of which each row is read when it is asked for."""

    file: RowFile
    kind: np.dtype
    start: int
    count: int

    @classmethod
    def store(cls, rows: np.ndarray, file: RowFile) -> Rows:
        """Append ``rows`` to a file."""
        return cls(file, rows.dtype, file.append(rows.tobytes()), len(rows))

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> np.void:
        if not 0 <= number < self.count:
            raise IndexError(number)
        size = self.kind.itemsize
        row: np.void = np.frombuffer(self.file.read(self.start + number * size, size), self.kind)[0]
        return row

    def all(self) -> np.ndarray:
        """Read all rows at once."""
        return np.frombuffer(self.file.read(self.start, self.count * self.kind.itemsize), self.kind)

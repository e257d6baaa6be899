"""Arrays of records in a temporary file, for datasets whose index does not fit into memory."""

from __future__ import annotations

import os
import tempfile
from multiprocessing.context import get_spawning_popen
from multiprocessing.reduction import DupFd
from typing import Any, BinaryIO

import numpy as np

from mobileclip2.store.storage import temporary_files


class RowFile:
    """An unnamed temporary file in ``TMPDIR``. The system deletes it when the last process closes it.

    Processes that :mod:`multiprocessing` starts share the file. Other pickles contain a copy of its content.

    Raises:
        StoreError: the disk is full or cannot be written.
    """

    def __init__(self, content: bytes = b"") -> None:
        self._size = 0
        with temporary_files():
            self._file: BinaryIO = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - open as long as this object lives
        self.append(content)

    def append(self, data: bytes) -> int:
        """Append data and return their offset."""
        start = self._size
        remaining = memoryview(data)
        with temporary_files():
            while remaining:
                remaining = remaining[self._file.write(remaining) :]
        self._size += len(data)
        return start

    def read(self, start: int, size: int) -> bytes:
        """Read ``size`` bytes from ``start``."""
        data = os.pread(self._file.fileno(), size, start)
        while len(data) < size and (more := os.pread(self._file.fileno(), size - len(data), start + len(data))):
            data += more  # one pread() returns at most two gigabytes
        return data

    def __reduce__(self) -> tuple[Any, ...]:
        if get_spawning_popen() is not None:
            return _open_shared, (DupFd(self._file.fileno()), self._size)
        return RowFile, (self.read(0, self._size),)


def _open_shared(descriptor: Any, size: int) -> RowFile:
    """Open the file of the parent process in a child process."""
    shared = RowFile.__new__(RowFile)
    shared._file, shared._size = os.fdopen(descriptor.detach(), "rb", buffering=0), size
    return shared


class FileArray:
    """An array ``[n]`` of records that is appended to a file. Rows are read on access."""

    def __init__(self, rows: np.ndarray, file: RowFile) -> None:
        self._file, self._start = file, file.append(rows.tobytes())
        self.dtype, self._count = rows.dtype, len(rows)

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, number: int) -> np.void:
        if not 0 <= number < self._count:
            raise IndexError(number)
        size = self.dtype.itemsize
        row: np.void = np.frombuffer(self._file.read(self._start + number * size, size), self.dtype)[0]
        return row

    def all(self) -> np.ndarray:
        """Read all rows."""
        return np.frombuffer(self._file.read(self._start, self._count * self.dtype.itemsize), self.dtype)

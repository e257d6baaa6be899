"""Metrics of a run as JSON lines, one object per step."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mobileclip2.errors import StoreError
from mobileclip2.store.storage import atomic_path, file_sha256


class Journal:
    """A file of JSON lines with increasing ``step``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hash = hashlib.sha256()

    def append(self, records: Iterable[Mapping[str, float]]) -> None:
        """Append records.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        lines = "".join(json.dumps(record) + "\n" for record in records).encode()
        try:
            with self.path.open("ab") as file:
                file.write(lines)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error.strerror}); fix that and run again. "
                "Training resumes from its last checkpoint"
            ) from error
        self._hash.update(lines)

    def sync(self) -> None:
        """Flush all lines to the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    @property
    def sha256(self) -> str:
        """sha256 of the lines that this process kept or appended, whatever is in the file now."""
        return self._hash.hexdigest()

    def sha256_until(self, step: int) -> str:
        """Return the sha256 of the stored records up to ``step``."""
        return hashlib.sha256(self._until(step)).hexdigest()

    def truncate(self, step: int) -> None:
        """Drop records after ``step`` and damaged lines.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        kept = self._until(step)
        with atomic_path(self.path) as temporary:
            temporary.write_bytes(kept)
        self._hash = hashlib.sha256(kept)

    def verify(self) -> None:
        """Compare the file with what this process kept and appended.

        Raises:
            StoreError: another program changed the file.
        """
        if file_sha256(self.path) != self.sha256:
            raise StoreError(
                f"{self.path}: damaged: it changed during the training; run again to continue from an earlier checkpoint"
            )

    def last(self) -> dict[str, float]:
        """Return the latest value of every metric."""
        latest: dict[str, float] = {}
        for line in self._lines():
            latest.update(_parse(line) or {})
        return latest

    def _until(self, step: int) -> bytes:
        records = ((line, _parse(line)) for line in self._lines())
        return b"".join(line for line, record in records if record and record["step"] <= step)

    def _lines(self) -> list[bytes]:
        data = self.path.read_bytes() if self.path.exists() else b""
        return [line for line in data.splitlines(keepends=True) if line.endswith(b"\n")]


def _parse(line: bytes) -> dict[str, float] | None:
    """Return a record, or None if the line is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("step"), int)
    is_numbers = is_record and all(isinstance(value, int | float) for value in record.values())
    return record if is_numbers else None

"""Metrics of a run as JSON lines, one object per step."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from mobileclip2.errors import StoreError
from mobileclip2.store.storage import atomic_path


class Journal:
    """A file of JSON lines with increasing ``step``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def append(self, records: Iterable[Mapping[str, float]]) -> None:
        """Append records.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        lines = "".join(json.dumps(record) + "\n" for record in records)
        try:
            with self.path.open("a") as file:
                file.write(lines)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error.strerror}); fix that and run again. "
                "Training resumes from its last checkpoint"
            ) from error

    def sync(self) -> None:
        """Flush all lines to the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def truncate(self, step: int) -> None:
        """Drop records after ``step`` and an incomplete last line."""
        lines = [line for line in self._lines() if json.loads(line)["step"] <= step]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(lines))

    def last(self) -> dict[str, float]:
        """Return the latest value of every metric."""
        latest: dict[str, float] = {}
        for line in self._lines():
            latest.update(json.loads(line))
        return latest

    def _lines(self) -> list[str]:
        text = self.path.read_text() if self.path.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

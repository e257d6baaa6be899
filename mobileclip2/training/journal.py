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
        """Drop records after ``step``, and damaged lines after the last record that is kept.

        Raises:
            StoreError: a line that must be kept is damaged.
        """
        lines: list[str] = []
        last, damaged = 0.0, 0
        for number, line in enumerate(self._lines(), 1):
            record = _parse(line)
            if record is None:
                damaged = damaged or number
            elif record["step"] <= step:
                if damaged:
                    raise self._damaged(damaged)
                lines.append(line)
                last = record["step"]
        if damaged and last < step:
            raise self._damaged(damaged)
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(lines))

    def last(self) -> dict[str, float]:
        """Return the latest value of every metric."""
        latest: dict[str, float] = {}
        for number, line in enumerate(self._lines(), 1):
            record = _parse(line)
            if record is None:
                raise self._damaged(number)
            latest.update(record)
        return latest

    def _damaged(self, line: int) -> StoreError:
        return StoreError(
            f"{self.path}, line {line}: damaged, not a record of a step; delete the folder {self.path.parent} to train again "
            "from the start"
        )

    def _lines(self) -> list[str]:
        text = self.path.read_text(errors="replace") if self.path.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]


def _parse(line: str) -> dict[str, float] | None:
    """Return a record, or None if the line is damaged."""
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        return None
    is_record = isinstance(record, dict) and isinstance(record.get("step"), int)
    is_numbers = is_record and all(isinstance(value, int | float) for value in record.values())
    return record if is_numbers else None

"""Numbers of a run as JSON lines, one object a step."""

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
        """Append a line. Raise ``StoreError`` if the disk is full."""
        lines = "".join(json.dumps(record) + "\n" for record in records)
        try:
            with self.path.open("a") as file:
                file.write(lines)
        except OSError as error:
            raise StoreError(
                f"{self.path}: cannot be written ({error.strerror}); mend that and run again, "
                "training goes on from its last checkpoint"
            ) from error

    def settle(self) -> None:
        """Wait until every line is on the disk."""
        if self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())

    def cut(self, step: int) -> None:
        """Drop everything after ``step``, and a line that a kill left half-written."""
        kept = [line for line in self._lines() if json.loads(line)["step"] <= step]
        with atomic_path(self.path) as temporary:
            temporary.write_text("".join(kept))

    def last(self) -> dict[str, float]:
        """Return the latest value of every number."""
        numbers: dict[str, float] = {}
        for line in self._lines():
            numbers.update(json.loads(line))
        return numbers

    def _lines(self) -> list[str]:
        text = self.path.read_text() if self.path.exists() else ""
        return [line for line in text.splitlines(keepends=True) if line.endswith("\n")]

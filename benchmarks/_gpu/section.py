"""The input of a section: a device, a size, a time limit, and a file for the results so far."""

from __future__ import annotations

import gc
import json
import os
import statistics
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

Row = dict[str, Any]
"""Each row has ``what``. It also has ``found`` (text), ``lines``, ``error`` or ``value``.

A ``value`` comes with ``unit`` and optionally ``lowest``, ``highest`` and ``target``.
"""


@dataclass(frozen=True)
class Section:
    name: str
    device: torch.device
    small: bool
    """A rehearsal: a few steps of tiny models."""
    ends: float
    """The value of time.time() at which the section is stopped."""
    rows: Path
    """A file with one JSON object per line. Each row is appended at once, so that a kill does not lose earlier rows."""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        return self.ends - time.time()

    def by(self, share: float) -> float:
        """Return the time at which ``share`` of the remaining time has passed."""
        return time.time() + share * self.left()

    def value(
        self,
        what: str,
        value: float | Sequence[float],
        unit: str = "",
        *,
        target: float | None = None,
        at_least: bool = True,
    ) -> None:
        """Record a number, or the median and range of the numbers of all repeats.

        On a CPU, ``reached`` is None, because targets apply to a GPU.
        """
        each = [value] if isinstance(value, int | float) else list(value)
        middle = statistics.median(each)
        row: Row = {"what": what, "value": middle, "unit": unit, "repeats": len(each)}
        if len(each) > 1:
            row |= {"lowest": min(each), "highest": max(each), "each": each}
        if target is not None:
            row |= {"target": target, "at_least": at_least}
            row["reached"] = (middle >= target if at_least else middle <= target) if self.on_gpu else None
        self._append(row)

    def found(self, what: str, words: str) -> None:
        self._append({"what": what, "found": words})

    def lines(self, what: str, lines: list[str]) -> None:
        """Record lines of plain text, for example a profile."""
        self._append({"what": what, "lines": lines})

    def require(self, seconds: float) -> None:
        """Raise ``NoTime`` if less than ``seconds`` is left."""
        if self.left() < seconds:
            raise NoTime(f"{self.left():.0f} s were left, it asks for {seconds:.0f} s")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Record an error raised in this context, free the device memory and continue."""
        try:
            yield
        except NoTime as left:
            self._append({"what": what, "error": f"left out: {left}"})
        except torch.cuda.OutOfMemoryError as error:
            self._append({"what": what, "error": f"out of memory: {str(error).splitlines()[0]}"})
        except Exception as error:
            self._append({"what": what, "error": f"{type(error).__name__}: {str(error)[:600]}"})
            traceback.print_exc()
        gc.collect()
        if self.on_gpu:
            torch.cuda.empty_cache()

    def _append(self, row: Row) -> None:
        line = json.dumps({"section": self.name, **row}) + "\n"
        descriptor = os.open(self.rows, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        try:
            os.write(descriptor, line.encode())
        finally:
            os.close(descriptor)


class NoTime(Exception):
    """Too little of the section's time is left."""

"""What a section gets: a device, a size, the time by which it is to be ready, and a file that holds what it has found so far."""

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
"""``what``, and ``value`` with ``unit``, ``lowest``, ``highest``, ``target``, or ``found`` in words, ``lines``, ``error``"""


@dataclass(frozen=True)
class Section:
    name: str
    device: torch.device
    small: bool
    """few steps of tiny models: a rehearsal"""
    ends: float
    """time.time() at which the section is stopped"""
    rows: Path
    """one JSON object a line, appended at once, so that a kill loses nothing"""

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    def left(self) -> float:
        return self.ends - time.time()

    def by(self, share: float) -> float:
        """The time at which a share of what is left has passed."""
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
        """A number, or those of all repeats: their median and range. On a CPU a target is that of another machine."""
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
        """Something that is read as it is, a profile for instance."""
        self._append({"what": what, "lines": lines})

    def require(self, seconds: float) -> None:
        """Raises ``NoTime`` where less is left."""
        if self.left() < seconds:
            raise NoTime(f"{self.left():.0f} s were left, it asks for {seconds:.0f} s")

    @contextmanager
    def attempt(self, what: str) -> Iterator[None]:
        """Records what goes wrong inside, frees the device's memory and goes on."""
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

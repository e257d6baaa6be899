"""Detect truncated files by their last bytes."""

from __future__ import annotations

import os
from pathlib import Path

END_MARKERS = {".parquet": b"PAR1", ".tar": bytes(1024)}
"""last bytes of a complete file by suffix; a tar ends with two empty blocks"""


def is_complete(path: Path) -> bool:
    """Return whether a sidecar or tar has its end marker. Return True for other files."""
    end = END_MARKERS.get(path.suffix, b"")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(end)))
        return file.read() == end

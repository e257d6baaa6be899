"""Run one section in a new process that is started, not forked."""

from __future__ import annotations

import sys
from pathlib import Path

from benchmarks.gpu import child

if __name__ == "__main__":
    name, device, size, until, out = sys.argv[1:]
    child(name, device, size or None, float(until), Path(out))

"""The Dagster instance of the command line."""

from __future__ import annotations

import os
from pathlib import Path

import dagster as dg


def instance() -> dg.DagsterInstance:
    """Return the Dagster instance of this checkout, so that the UI shows the runs of the command line."""
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").resolve())))
    home.mkdir(parents=True, exist_ok=True)
    settings = home / "dagster.yaml"
    if not settings.exists():
        settings.write_text((Path(__file__).parent / "dagster.yaml").read_text())
    return dg.DagsterInstance.get()

"""The Dagster instance of the command line. ``python -m pipelines.instance`` prepares it for ``dagster dev``."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg

from mobileclip2.errors import UserError
from mobileclip2.store.storage import LocalStorage

SETTINGS = "dagster.yaml"


def instance() -> dg.DagsterInstance:
    """Return the Dagster instance of this checkout, so that the UI shows the runs of the command line.

    Raises:
        UserError: ``DAGSTER_HOME`` cannot be used.
    """
    home = Path(os.environ.setdefault("DAGSTER_HOME", str(Path(".dagster").resolve())))
    with _opening(home):
        if not (home / SETTINGS).exists():
            _write_settings(home)
        return dg.DagsterInstance.get()


def prepare() -> None:
    """Write this version's settings and create the databases, before several servers open them."""
    home = Path(os.environ["DAGSTER_HOME"])
    with _opening(home):
        _write_settings(home)
    with instance():
        pass


def _write_settings(home: Path) -> None:
    LocalStorage(home).write(SETTINGS, (Path(__file__).parent / SETTINGS).read_bytes())


@contextmanager
def _opening(home: Path) -> Iterator[None]:
    """Wait for other processes that open the instance: Dagster creates and migrates its databases without a lock."""
    try:
        home.mkdir(parents=True, exist_ok=True)
        lock = (home / ".opening").open("w")
    except OSError as error:
        raise UserError(
            f"DAGSTER_HOME {home}: cannot be used ({error.strerror}); set it to a folder of your own"
        ) from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    try:
        prepare()
    except UserError as error:
        sys.exit(f"mobileclip2: {error}")

"""What this machine has learned of files and outputs, so that a plan looks at each only once.

Everything in here can be found out again: the cache may be deleted at any time.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from contextlib import suppress
from functools import cached_property
from pathlib import Path

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """Return the cache folder of this machine: ``MOBILECLIP2_CACHE``, or one in the user's home."""
    return Path(os.environ.get("MOBILECLIP2_CACHE", Path.home() / ".cache" / "mobileclip2"))


class StatCache:
    """Values by place, each true only while the place looks as it did: ``look`` is its size and times, or its ETag."""

    def __init__(self) -> None:
        self._loaded: dict[str, tuple[str, str]] = {}

    @cached_property
    def _database(self) -> sqlite3.Connection:
        path = cache_folder() / "remembered.sqlite"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            return _open(str(path))
        except (sqlite3.DatabaseError, OSError) as error:
            logger.warning("%s: cannot be used (%s); what is hashed now will be hashed again", path, error)
            return _open(":memory:")

    def recall(self, place: str, look: str) -> str | None:
        """Return the value of a place that still looks as it did."""
        if place not in self._loaded:
            try:
                row = self._database.execute("select look, value from remembered where place = ?", (place,)).fetchone()
            except sqlite3.DatabaseError:  # damaged: it can be found out again
                row = None
            self._loaded[place] = row or ("", "")
        then, value = self._loaded[place]
        return value if then == look else None

    def known(self, place: str) -> bool:
        """Whether anything was ever kept of a place."""
        self.recall(place, "")
        return bool(self._loaded[place][0])

    def keep(self, place: str, look: str, value: str) -> None:
        """Store the value of a place under its present look. Errors of the database are ignored."""
        with suppress(sqlite3.DatabaseError):  # damaged, or the disk is full
            self._database.execute("insert or replace into remembered values (?, ?, ?)", (place, look, value))
        self._loaded[place] = (look, value)


def _open(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=off")
    database.execute("create table if not exists remembered (place text primary key, look text, value text)")
    return database

"""A persistent cache of hashes and manifest summaries on this machine.

The cache can be deleted at any time. Its values are then recomputed.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from contextlib import suppress
from functools import cached_property

from mobileclip2.errors import StoreError
from mobileclip2.store.user_cache import cache_folder

logger = logging.getLogger(__name__)

DOUBTED = "damaged"
"""version token of an artifact that the next plan hashes"""


class StatCache:
    """A cache of one value per URL. A value is valid while the version token of the URL is unchanged.

    Each entry has a hash of its fields. A damaged or altered entry counts as missing.
    """

    def __init__(self) -> None:
        self._loaded: dict[str, tuple[str, str]] = {}

    @cached_property
    def _database(self) -> sqlite3.Connection:
        try:
            return _open(str(cache_folder() / "hashes.sqlite"))
        except (sqlite3.DatabaseError, OSError, StoreError) as error:
            logger.warning("the cache of hashes cannot be used, so the next run hashes files again: %s", error)
            return _open(":memory:")

    def get(self, url: str, version_token: str) -> str | None:
        """Return the value of a URL, or None if its version token has changed."""
        if url not in self._loaded:
            self._loaded[url] = self._read(url) or ("", "")
        cached_token, value = self._loaded[url]
        return value if cached_token == version_token else None

    def _read(self, url: str) -> tuple[str, str] | None:
        try:
            row = self._database.execute("select token, value, sha256 from entries where url = ?", (url,)).fetchone()
        except (sqlite3.DatabaseError, UnicodeDecodeError):  # a damaged cache counts as empty
            return None
        if row is None:
            return None
        token, value, sha256 = row
        if sha256 == _digest(url, token, value):
            return token, value
        logger.warning("%s: its entry in the cache of hashes is damaged and not used", url)
        return None

    def contains(self, url: str) -> bool:
        """Return whether the cache has a value for a URL, with any version token."""
        self.get(url, "")
        return bool(self._loaded[url][0])

    def put(self, url: str, version_token: str, value: str) -> None:
        """Store the value of a URL with its version token. Database errors are ignored."""
        row = url, version_token, value, _digest(url, version_token, value)
        with suppress(sqlite3.DatabaseError):  # damaged, or the disk is full
            self._database.execute("insert or replace into entries values (?, ?, ?, ?)", row)
        self._loaded[url] = (version_token, value)


def _digest(*fields: object) -> str:
    """Return a hash of the fields of an entry, which can have any type in a damaged database."""
    return hashlib.sha256(repr(fields).encode(errors="surrogatepass")).hexdigest()


def _open(path: str) -> sqlite3.Connection:
    database = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
    database.execute("pragma journal_mode=wal")
    database.execute("pragma synchronous=off")
    database.execute("create table if not exists entries (url text primary key, token text, value text, sha256 text)")
    return database

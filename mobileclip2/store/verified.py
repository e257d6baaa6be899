"""Hash each file once in a process. A file that is replaced or written to is hashed again."""

from __future__ import annotations

from pathlib import Path

from mobileclip2.store.storage import file_sha256

_verified: dict[tuple[Path, int, int, int], str] = {}
"""hash or ETag of files, by path, inode, size and modification time"""


def has_hash(path: Path, sha256: str) -> bool:
    """Return whether the sha256 of a file is ``sha256``."""
    if not is_recorded(path, sha256):
        if file_sha256(path) != sha256:
            return False
        record(path, sha256)
    return True


def is_recorded(path: Path, sha256: str) -> bool:
    """Return whether this process has compared the file with ``sha256``."""
    return _verified.get(_identity(path)) == sha256


def record(path: Path, sha256: str) -> None:
    """Record that the file has this hash."""
    _verified[_identity(path)] = sha256


def _identity(path: Path) -> tuple[Path, int, int, int]:
    status = path.stat()
    return path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns

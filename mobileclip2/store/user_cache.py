"""The cache folder of this user: private, bounded, and safe to delete while no process runs."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mobileclip2.errors import StoreError

FOLDER, GIB = "MOBILECLIP2_CACHE", "MOBILECLIP2_CACHE_GIB"
"""environment variables: the folder, and the size to which it is swept"""

BOUNDED = ("s3", "folders", "features")
"""subfolders that are swept; the others are small or hold unfinished work"""

DISK_SHARE = 0.5
"""default size, as a share of the disk"""
UNUSED_SECONDS = 30 * 86400.0
"""age after which gc deletes a cached file regardless of the size"""

_SESSIONS = "sessions"
_session: tuple[Path, int] | None = None


def cache_folder() -> Path:
    """Return the cache folder: ``MOBILECLIP2_CACHE``, or ``mobileclip2`` in ``XDG_CACHE_HOME`` or ``~/.cache``.

    The folder is created. Only this user can read and write it.

    Raises:
        StoreError: the user has no home, or the folder is a symbolic link, is not a folder, belongs to another user or
            cannot be created.
    """
    named = os.environ.get(FOLDER)
    folder = Path(named).absolute() if named else _user_caches() / "mobileclip2"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = folder.lstat()
        problem = ""
        if stat.S_ISLNK(found.st_mode):
            problem = "it is a symbolic link"
        elif found.st_uid != os.geteuid():
            problem = f"it belongs to another user (uid {found.st_uid})"
        elif stat.S_IMODE(found.st_mode) & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        problem = error.strerror or str(error)
    if problem:
        raise StoreError(f"{folder}: the cache cannot be used: {problem}; set {FOLDER} to a folder of your own")
    return folder


def _user_caches() -> Path:
    stated = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if stated.is_absolute():  # as the XDG specification says, other values are ignored
        return stated
    try:
        home = Path.home()
    except (RuntimeError, KeyError):  # no HOME, and the user has no name
        home = Path()
    if not home.is_absolute():
        raise StoreError(
            f"this user has no home folder for the cache; set HOME, or set {FOLDER} to a folder of your own"
        )
    return home / ".cache"


def limit_bytes(folder: Path) -> int:
    """Return the size to which the cache is swept, from ``MOBILECLIP2_CACHE_GIB`` or the size of the disk.

    Raises:
        StoreError: the variable is not a positive number.
    """
    stated = os.environ.get(GIB)
    if not stated:
        return int(shutil.disk_usage(folder).total * DISK_SHARE)
    try:
        size = float(stated)
        if not 0 < size < 1 << 30:
            raise ValueError
    except ValueError:
        raise StoreError(f"{GIB}: '{stated}' is not a positive number of GiB; correct it") from None
    return int(size * (1 << 30))


def begin_use() -> None:
    """Protect the files that this process uses from now on, until it ends."""
    global _session
    folder = cache_folder() / _SESSIONS
    path = folder / f"{socket.gethostname()}-{os.getpid()}"
    if _session is not None and _session[0] == path:
        return
    with suppress(OSError):  # without the file, another process can only make this one download again
        folder.mkdir(exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        _session = path, descriptor


def use(path: Path) -> None:
    """Record that this process uses a cached file."""
    with suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))


def sweep(*, unused_seconds: float = float("inf")) -> int:
    """Delete the least recently used files until the cache has at most its limit, and files unused for ``unused_seconds``.

    Files that a running process may use are kept. Return the number of deleted bytes.
    """
    root = cache_folder()
    protected_since = min(_live_sessions(root / _SESSIONS), default=float("inf"))
    files = sorted(_files(root))
    total, deleted, limit = sum(size for _, size, _ in files), 0, limit_bytes(root)
    for used, size, path in files:
        if used >= protected_since or (total <= limit and used > time.time() - unused_seconds):
            break
        with suppress(OSError):
            path.unlink()
            total, deleted = total - size, deleted + size
            path.parent.rmdir()
    return deleted


def _files(root: Path) -> Iterator[tuple[float, int, Path]]:
    """Yield the time of the last use, the size and the path of the files of the bounded folders."""
    for name in BOUNDED:
        for folder, _, names in os.walk(root / name):
            for path in (Path(folder, each) for each in names):
                with suppress(OSError):
                    status = path.lstat()
                    yield max(status.st_atime, status.st_mtime), status.st_size, path


def _live_sessions(folder: Path) -> Iterator[float]:
    """Yield the start of each process that uses the cache, and delete the files of dead ones."""
    for path in folder.glob("*"):
        with suppress(OSError), path.open("r+b") as file:
            began = path.stat().st_mtime
            if _session is not None and path == _session[0]:
                yield began
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield began
            else:
                path.unlink()

"""Storage protocol and its implementation on a local disk.

Writes are atomic: a file is written under a temporary name, flushed and renamed.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, Protocol

from mobileclip2.errors import StoreError

END_MARKERS = {".parquet": b"PAR1", ".tar": bytes(1024)}
"""last bytes of a complete file by suffix; a tar ends with two empty blocks"""


class Storage(Protocol):
    """Files by key. Keys are relative POSIX paths."""

    url: str

    def exists(self, key: str) -> bool:
        """Return whether ``key`` exists."""

    def version_token(self, key: str) -> str | None:
        """Return a string that changes with the content of ``key``, or None if the key does not exist."""

    def folder_token(self, folder: str) -> str:
        """Return a string that changes if a key is added to or deleted from a folder, or an empty string."""

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly under ``prefix``, sorted."""

    def read(self, key: str) -> bytes:
        """Return the bytes of ``key``.

        Raises:
            FileNotFoundError: the key does not exist.
        """

    def write(self, key: str, data: bytes) -> None:
        """Write ``key`` atomically."""

    def create(self, key: str, data: bytes) -> bool:
        """Write ``key`` atomically if it does not exist. Return whether it was written."""

    def replace(self, key: str, data: bytes, version_token: str) -> bool:
        """Replace ``key`` if it has this version token. Return whether it was replaced."""

    def put(self, key: str, path: Path) -> None:
        """Store a copy of a local file."""

    def append(self, key: str, data: bytes) -> None:
        """Append to ``key``, and create it if it does not exist.

        The data can be written twice after a network error, or be lost on a network file system.
        """

    def fetch(self, key: str) -> Path:
        """Return the path of a local copy of ``key``. Do not modify it."""

    def describe(self, key: str) -> tuple[int, str]:
        """Return size in bytes and sha256.

        Raises:
            FileNotFoundError: the key does not exist.
        """

    def is_complete(self, key: str) -> bool:
        """Return False if the file is truncated."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, size in bytes) for each complete file under ``prefix``, sorted."""

    def delete(self, key: str) -> None:
        """Delete ``key`` if it exists."""

    def delete_folder(self, prefix: str) -> None:
        """Delete every key under ``prefix``, and on a disk the folders that become empty."""

    def delete_temporary(self, prefix: str) -> None:
        """Delete temporary files of killed writers under ``prefix``. No process may write there."""


def file_sha256(path: Path) -> str:
    """Return the sha256 of a local file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def has_end(path: Path) -> bool:
    """Return whether a sidecar or tar has its end marker, so that it is not truncated. Return True for other files."""
    end = END_MARKERS.get(path.suffix, b"")
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - len(end)))
        return file.read() == end


def explain(error: OSError, path: str) -> NoReturn:
    """Raise a ``StoreError`` for a full disk, missing permissions or a bad path. Reraise any other error."""
    causes = {
        errno.ENOSPC: "the disk is full; free some space and run again, finished shards are kept",
        errno.EDQUOT: "the disk quota is used up; free some space and run again, finished shards are kept",
        errno.EROFS: "the file system is read-only; point 'store' in the profile to a writable folder, or give another path",
        errno.EACCES: "permission denied; point 'store' in the profile to a writable folder, or give another path",
        errno.EPERM: "permission denied; point 'store' in the profile to a writable folder, or give another path",
        errno.ENOTDIR: "a file lies where a folder is needed; point 'store' in the profile to a folder, or give another path",
        errno.EEXIST: "a file lies where a folder is needed; point 'store' in the profile to a folder, or give another path",
        errno.EISDIR: "a folder lies where a file is needed; give another path",
        errno.ENAMETOOLONG: "the name is too long for the file system; shorten it",
        errno.ELOOP: "too many symbolic links; point 'store' in the profile to a folder without a loop, or give another path",
    }
    if error.errno in causes:
        raise StoreError(f"{path}: {causes[error.errno]}") from error
    raise error


@contextmanager
def explained(path: str | Path) -> Iterator[None]:
    """Apply :func:`explain` to the error of a block that writes to ``path``."""
    try:
        yield
    except OSError as error:
        explain(error, str(path))


@contextmanager
def temporary_files() -> Iterator[None]:
    """Convert errors of a block that writes to ``TMPDIR``.

    Raises:
        StoreError: ``TMPDIR`` cannot be written.
    """
    try:
        tempfile.gettempdir()  # it writes a probe file, so it fails if every disk is full
    except FileNotFoundError as error:
        raise _no_room(error) from error
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES}:
            raise _no_room(error) from error
        raise


def _no_room(error: OSError) -> StoreError:
    return StoreError(
        f"temporary files: cannot be written ({error.strerror}); point TMPDIR to a disk with room and run again"
    )


@contextmanager
def atomic_path(path: Path, *, exclusive: bool = False) -> Iterator[Path]:
    """Yield a temporary path that replaces ``path`` if the block succeeds.

    Raises:
        StoreError: the disk is full or cannot be written.
        _Exists: ``path`` exists, and ``exclusive`` is true.
    """
    # A process id is not unique across pods that share a volume, and ``path.name`` may already have the maximum length.
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        with explained(path):
            _create(temporary)
            yield temporary
            with temporary.open("rb") as written:
                os.fsync(written.fileno())
            (rename_exclusive if exclusive else Path.replace)(temporary, path)
    finally:
        with suppress(OSError):  # the folder cannot be used, as the first error says
            temporary.unlink(missing_ok=True)


class _Exists(Exception):
    """The file exists."""


def rename_exclusive(temporary: Path, path: Path) -> None:
    """Give a file its name, or raise ``_Exists`` if ``path`` exists. The caller deletes ``temporary``."""
    try:
        path.hardlink_to(temporary)  # a rename would replace the file
    except FileExistsError:
        raise _Exists from None
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.ENOTSUP, errno.ENOSYS}:  # of a file system without hard links
            raise
        if path.exists():
            raise _Exists from None
        temporary.replace(path)


def _create(path: Path) -> None:
    """Create an empty file and its folders, also while :meth:`LocalStorage.delete_folder` deletes empty folders."""
    for attempt in range(100):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()
            return
        except FileNotFoundError:
            if attempt == 99:
                raise


class LocalStorage:
    """A folder on a local disk, or on a file system that several machines share."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.url = str(root)

    def exists(self, key: str) -> bool:
        """Return whether the file exists."""
        return (self.root / key).is_file()

    def version_token(self, key: str) -> str | None:
        """Return size, modification time and inode of a file, or None if it does not exist."""
        try:
            stat = (self.root / key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"

    def folder_token(self, folder: str) -> str:
        """Return size, modification time and inode of a folder, or an empty string."""
        return self.version_token(folder) or ""

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly under ``prefix``, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self.root / prefix) if entry.is_dir())
        except FileNotFoundError:
            return []

    def read(self, key: str) -> bytes:
        """Read a file."""
        try:
            return (self.root / key).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from None

    def write(self, key: str, data: bytes) -> None:
        """Write a file atomically."""
        with atomic_path(self.root / key) as temporary:
            temporary.write_bytes(data)

    def create(self, key: str, data: bytes) -> bool:
        """Write a file atomically if it does not exist. Return whether it was written."""
        try:
            with atomic_path(self.root / key, exclusive=True) as temporary:
                temporary.write_bytes(data)
        except _Exists:
            return False
        return True

    def replace(self, key: str, data: bytes, version_token: str) -> bool:
        """Replace a file if it has this version token. Return whether it was replaced."""
        if self.version_token(key) != version_token:
            return False
        self.write(key, data)
        return True

    def put(self, key: str, path: Path) -> None:
        """Copy a local file atomically."""
        with atomic_path(self.root / key) as temporary:
            shutil.copyfile(path, temporary)

    def append(self, key: str, data: bytes) -> None:
        """Append to a file, and create it if it does not exist."""
        path = self.root / key
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)

    def fetch(self, key: str) -> Path:
        """Return the path of the file."""
        return self.root / key

    def describe(self, key: str) -> tuple[int, str]:
        """Return size in bytes and sha256 of a file."""
        path = self.root / key
        return path.stat().st_size, file_sha256(path)

    def is_complete(self, key: str) -> bool:
        """Return False if the file is truncated."""
        return has_end(self.root / key)

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, size in bytes) for each complete file under ``prefix``, folder by folder."""
        for folder, folders, files in os.walk(self.root / prefix):
            folders.sort()
            for name in sorted(files):
                if not name.endswith(".partial"):
                    path = Path(folder) / name
                    with suppress(FileNotFoundError):  # another process has just deleted it
                        yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def delete(self, key: str) -> None:
        """Delete a file if it exists."""
        (self.root / key).unlink(missing_ok=True)

    def delete_folder(self, prefix: str) -> None:
        """Delete a folder and its parents that become empty."""
        folder = self.root / prefix
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:
            if parent == self.root:
                break
            try:
                parent.rmdir()
            except FileNotFoundError:
                continue
            except OSError:  # the folder is not empty
                break

    def delete_temporary(self, prefix: str) -> None:
        """Delete temporary files of killed writers under ``prefix``."""
        for temporary in (self.root / prefix).rglob(".*.partial"):
            temporary.unlink(missing_ok=True)

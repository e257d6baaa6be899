"""Bytes under keys, and those that lie on a local disk.

A key is readable only when it is whole: a file is written beside its place, flushed and renamed.
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
from mobileclip2.store.truncation import is_whole


class Storage(Protocol):
    """Keys are relative POSIX paths."""

    url: str

    def exists(self, key: str) -> bool:
        """Return whether ``key`` exists."""

    def look(self, key: str) -> str | None:
        """Return a value that changes with the bytes of ``key``, at little cost, or None if the key does not exist."""

    def look_into(self, folder: str) -> str:
        """Return a value that changes if a key of a folder comes or goes, as far as that is cheap to see."""

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly under ``prefix``, sorted."""

    def read(self, key: str) -> bytes:
        """Return the bytes of ``key``.

        Raises:
            FileNotFoundError: there is no such key.
        """

    def write(self, key: str, data: bytes) -> None:
        """Write the bytes of ``key``, whole or not at all."""

    def put(self, key: str, path: Path) -> None:
        """Store a local file. The file itself stays."""

    def append(self, key: str, data: bytes) -> None:
        """Append to ``key``, which need not exist.

        Use it only for lines that may be lost. A line may come twice after a lost answer. It may be lost on network
        file systems, or if a network alters bytes.
        """

    def fetch(self, key: str) -> Path:
        """Return a local file with the bytes of ``key``. Do not change it."""

    def describe(self, key: str) -> tuple[int, str]:
        """Size in bytes and sha256.

        Raises:
            FileNotFoundError: there is no such key.
        """

    def is_whole(self, key: str) -> bool:
        """Return False if a file is seen to be cut off."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size in bytes) of every whole key under ``prefix``, sorted."""

    def delete(self, key: str) -> None:
        """Delete ``key`` if it exists."""

    def delete_folder(self, prefix: str) -> None:
        """Delete every key under ``prefix``, and on a disk the folders that this leaves empty."""

    def tidy(self, prefix: str) -> None:
        """Delete what killed writers left under ``prefix``. Call it when no process writes there."""


def file_sha256(path: Path) -> str:
    """Return the sha256 of a local file in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def explain(error: OSError, place: str) -> NoReturn:
    """Raise an error that says what to do about a full or closed disk or a bad path. Raise any other error as it is.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    causes = {
        errno.ENOSPC: "the disk is full; free some space and run again, finished shards are kept",
        errno.EDQUOT: "the disk quota is used up; free some space and run again, finished shards are kept",
        errno.EROFS: "the file system is read-only; point 'store' in the profile to a place that can be written",
        errno.EACCES: "permission denied; point 'store' in the profile to a place that can be written",
        errno.ENOTDIR: "a file lies where a folder is needed; point 'store' in the profile to a folder",
        errno.EEXIST: "a file lies where a folder is needed; point 'store' in the profile to a folder",
    }
    if error.errno in causes:
        raise StoreError(f"{place}: {causes[error.errno]}") from error
    raise error


@contextmanager
def temporary_files() -> Iterator[None]:
    """For a block that writes where ``TMPDIR`` says.

    Raises:
        StoreError: that cannot be written.
    """
    try:
        tempfile.gettempdir()  # looks for a place by writing, and finds none where every disk is full
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
def atomic_path(path: Path) -> Iterator[Path]:
    """Provide a temporary path beside ``path`` that replaces it if the block ends without an error.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    # no process number, which two pods that share a volume may have in common; no name, which may be as long as names can be
    temporary = path.with_name(f".{uuid.uuid4().hex}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        explain(error, str(path))
    finally:
        with suppress(NotADirectoryError):
            temporary.unlink(missing_ok=True)


class LocalStorage:
    """A folder on a local disk, or on a file system that several machines share."""

    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.url = str(root)

    def _path(self, key: str) -> Path:
        return self.root / key

    def exists(self, key: str) -> bool:
        """Return whether there is a file."""
        return self._path(key).is_file()

    def look(self, key: str) -> str | None:
        """Return size, modification time and inode of a file, or None if there is no file."""
        try:
            stat = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"

    def look_into(self, folder: str) -> str:
        """Return size, modification time and inode of a folder, or an empty string."""
        return self.look(folder) or ""

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the folders directly under ``prefix``, sorted."""
        try:
            return sorted(entry.name for entry in os.scandir(self._path(prefix)) if entry.is_dir())
        except FileNotFoundError:
            return []

    def read(self, key: str) -> bytes:
        """Read a file.

        Raises:
            FileNotFoundError: there is no such file.
        """
        try:
            return self._path(key).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from None

    def write(self, key: str, data: bytes) -> None:
        """Write a file, whole or not at all."""
        with atomic_path(self._path(key)) as temporary:
            temporary.write_bytes(data)

    def put(self, key: str, path: Path) -> None:
        """Copy a local file into the folder, whole or not at all."""
        with atomic_path(self._path(key)) as temporary:
            shutil.copyfile(path, temporary)

    def append(self, key: str, data: bytes) -> None:
        """Append to a file, which need not exist.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)
        except OSError as error:
            explain(error, str(path))

    def fetch(self, key: str) -> Path:
        """Return the path of the file itself."""
        return self._path(key)

    def describe(self, key: str) -> tuple[int, str]:
        """Return size in bytes and sha256 of a file."""
        path = self._path(key)
        return path.stat().st_size, file_sha256(path)

    def is_whole(self, key: str) -> bool:
        """Return False if a file is seen to be cut off."""
        return is_whole(self._path(key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, size in bytes) of every whole file under ``prefix``, folder by folder."""
        start = self._path(prefix)
        for folder, folders, files in os.walk(start):
            folders.sort()
            for name in sorted(files):
                if not name.endswith(".partial"):
                    path = Path(folder) / name
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def delete(self, key: str) -> None:
        """Delete a file if it exists."""
        self._path(key).unlink(missing_ok=True)

    def delete_folder(self, prefix: str) -> None:
        """Delete a folder, and the parents that this leaves empty."""
        folder = self._path(prefix)
        shutil.rmtree(folder, ignore_errors=True)
        for parent in folder.parents:
            if parent == self.root:
                break
            try:
                parent.rmdir()
            except FileNotFoundError:
                continue
            except OSError:  # something else is in there
                break

    def tidy(self, prefix: str) -> None:
        """Delete the temporary files that killed writers left under ``prefix``."""
        for leftover in self._path(prefix).rglob(".*.partial"):
            leftover.unlink(missing_ok=True)

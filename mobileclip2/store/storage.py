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
from mobileclip2.store.whole import is_whole


class Storage(Protocol):
    """Keys are relative POSIX paths."""

    url: str

    def exists(self, key: str) -> bool: ...
    def look(self, key: str) -> str | None:
        """What changes whenever the bytes of ``key`` do, cheaply had; None where there is nothing."""

    def look_into(self, folder: str) -> str:
        """What changes whenever a key of a folder comes or goes, as far as that is cheaply had."""

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders directly under ``prefix``, sorted."""

    def read(self, key: str) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...
    def put(self, key: str, path: Path) -> None:
        """Stores a local file; the file itself is left as it is."""

    def append(self, key: str, data: bytes) -> None:
        """Adds to the end of ``key``, which need not be there. For what can do without a line: it may come twice after a lost
        answer, and get lost on network file systems or where a network alters bytes.
        """

    def fetch(self, key: str) -> Path:
        """A local file with the bytes of ``key``, to be read and not changed."""

    def describe(self, key: str) -> tuple[int, str]:
        """Size in bytes and sha256.

        Raises:
            FileNotFoundError: there is no such key.
        """

    def is_whole(self, key: str) -> bool:
        """False for a file that is seen to be cut off."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size in bytes) of every whole key under ``prefix``, sorted."""

    def delete(self, key: str) -> None: ...
    def delete_folder(self, prefix: str) -> None:
        """Deletes every key under ``prefix``, and on a disk the folders that this leaves empty."""

    def tidy(self, prefix: str) -> None:
        """Deletes what killed writers left under ``prefix``, where nobody writes any more."""


def file_sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def explain(error: OSError, place: str) -> NoReturn:
    """Raises what a user can do about a full or closed disk, or a path that is none; any other error as it is.

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
    """A temporary path beside ``path`` that takes its place when the block ends well.

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
    def __init__(self, root: str | Path) -> None:
        self.root = Path(root)
        self.url = str(root)

    def _path(self, key: str) -> Path:
        return self.root / key

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    def look(self, key: str) -> str | None:
        try:
            stat = self._path(key).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        return f"{stat.st_size}:{stat.st_mtime_ns}:{stat.st_ino}"

    def look_into(self, folder: str) -> str:
        return self.look(folder) or ""

    def folders(self, prefix: str) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self._path(prefix)) if entry.is_dir())
        except FileNotFoundError:
            return []

    def read(self, key: str) -> bytes:
        try:
            return self._path(key).read_bytes()
        except NotADirectoryError as error:
            raise FileNotFoundError(str(error)) from None

    def write(self, key: str, data: bytes) -> None:
        with atomic_path(self._path(key)) as temporary:
            temporary.write_bytes(data)

    def put(self, key: str, path: Path) -> None:
        with atomic_path(self._path(key)) as temporary:
            shutil.copyfile(path, temporary)

    def append(self, key: str, data: bytes) -> None:
        path = self._path(key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.write(data)
        except OSError as error:
            explain(error, str(path))

    def fetch(self, key: str) -> Path:
        return self._path(key)

    def describe(self, key: str) -> tuple[int, str]:
        path = self._path(key)
        return path.stat().st_size, file_sha256(path)

    def is_whole(self, key: str) -> bool:
        return is_whole(self._path(key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        start = self._path(prefix)
        for folder, folders, files in os.walk(start):
            folders.sort()
            for name in sorted(files):
                if not name.endswith(".partial"):
                    path = Path(folder) / name
                    yield path.relative_to(self.root).as_posix(), path.stat().st_size

    def delete(self, key: str) -> None:
        self._path(key).unlink(missing_ok=True)

    def delete_folder(self, prefix: str) -> None:
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
        for leftover in self._path(prefix).rglob(".*.partial"):
            leftover.unlink(missing_ok=True)

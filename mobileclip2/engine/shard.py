"""Open the tars that a plan listed, and refuse one that has changed since.

A stage compares each file with the version that the plan saw, before and after it reads the file. Inode and change time are
compared within one process only, because some mounts number the same files differently on each machine. A process that gets
its shards from another process compares size, modification time and hash instead.
"""

from __future__ import annotations

import hashlib
import os
import posixpath
import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO, NamedTuple

from mobileclip2.engine.listing import ListedFile, check_version, file_version, list_files
from mobileclip2.errors import ShardError
from mobileclip2.fingerprint import fingerprint
from mobileclip2.store.s3 import S3Storage, split_s3
from mobileclip2.store.storage import atomic_path, file_sha256
from mobileclip2.store.user_cache import begin_use, cache_folder

_NUMBER = re.compile(r"(\d+)(?:\.[^./]*)?$")

MAX_STEM_BYTES = 220
"""maximum length of the part of a sidecar's name that comes from the shard; file systems allow 255 with hash and suffixes"""


class Shard(NamedTuple):
    """One input tar."""

    relative: str
    """name of the source and path in it"""
    url: str
    version_token: str = ""
    """version token at the time of the listing; see :class:`ListedFile`"""
    sha256: str | None = None
    """hash of a local file that another process listed; None if this process listed it, or if the hash is unknown"""

    @property
    def id(self) -> str:
        """Return the stem of its sidecar names, which is unique even if two folders have tars of the same name."""
        stem = posixpath.splitext(posixpath.basename(self.relative))[0]
        stem = stem.encode()[:MAX_STEM_BYTES].decode(errors="ignore")
        return f"{stem}-{hashlib.sha256(self.relative.encode()).hexdigest()[:8]}"

    def number(self) -> int:
        """Return the number at the end of the name, or a hash of the name.

        It determines the group, so that added shards do not move the others.
        """
        digits = _NUMBER.search(self.relative)
        return int(digits[1]) if digits else int(hashlib.sha256(self.relative.encode()).hexdigest()[:8], 16)


@contextmanager
def open_shard(shard: Shard) -> Iterator[BinaryIO]:
    """Open the tar of a shard. Compare it with the version that the plan saw, before and after the block.

    The block reads one open file, so a tar that takes its place and leaves again is not read.

    Raises:
        ShardError: the shard is missing or has changed. An error of the block can be a consequence, so this one replaces it.
    """
    with local_copy(shard.url, "" if shard.sha256 else shard.version_token).open("rb") as file:
        _check_unchanged(shard, file)
        try:
            yield file
        except ShardError:
            _check_unchanged(shard, file)
            raise
        _check_unchanged(shard, file)


def _check_unchanged(shard: Shard, file: BinaryIO) -> None:
    """Raise ``ShardError`` if a shard, or the open ``file`` of a local one, is not the version that the plan saw."""
    url, planned = shard.url, shard.version_token
    if not planned:
        return
    try:
        if url.startswith("s3://"):
            storage, key = split_s3(url)
            found = [storage.etag(key)]
        else:
            found = [file_version(Path(url).stat()), file_version(os.fstat(file.fileno()))]
    except FileNotFoundError:
        raise _missing(url) from None
    for version_token in found:
        check_version(url, _expected(shard, version_token), version_token)


_seen: dict[tuple[str, str], str] = {}
"""version tokens of this process by the URL and the version token of another process"""


def _expected(shard: Shard, found: str) -> str:
    """Return the version token that a shard must have in this process.

    That is the one of the plan. If another process planned, it is the first one here whose size, modification time and hash are
    those of the plan.
    """
    key = shard.url, shard.version_token
    if shard.sha256 is None or found == shard.version_token or key in _seen:
        return _seen.get(key, shard.version_token)
    path, same = Path(shard.url), found.split(":")[:2] == shard.version_token.split(":")[:2]
    if same and file_sha256(path) == shard.sha256 and file_version(path.stat()) == found:
        _seen[key] = found
        return found
    return shard.version_token


def local_copy(url: str, version_token: str = "") -> Path:
    """Return a local path with the bytes of a file or object, of the given version if there is one.

    Raises:
        ShardError: the file or object does not exist, or has another version.
    """
    with suppress(FileNotFoundError):
        if url.startswith("s3://"):
            storage, key = split_s3(url)
            return storage.fetch(key, version_token)
        path = Path(url)
        if path.is_file():
            if version_token:
                check_version(url, version_token, file_version(path.stat()))
            return path
    raise _missing(url)


def _missing(url: str) -> ShardError:
    return ShardError(f"{url}: the shard is missing; it existed when the run was planned. Restore it, or plan again")


def local_folder(url: str, listed: Sequence[ListedFile] | None = None) -> Path:
    """Return a local folder with the content of a folder or prefix: the listed versions, or the current ones.

    Raises:
        ShardError: an object has changed since the listing.
    """
    if not url.startswith("s3://"):
        return Path(url)
    storage = S3Storage(url)
    listed = list_files(url, "**/*") if listed is None else listed
    files = [(file.relative, file.version_token) for file in listed]
    target = cache_folder() / "folders" / fingerprint([url, files])
    begin_use()
    for relative, etag in files:
        path = target / relative
        fetched = storage.fetch(relative, etag)  # it compares the hash
        if not (path.exists() and path.samefile(fetched)):
            with atomic_path(path) as temporary:
                temporary.unlink()
                try:
                    temporary.hardlink_to(fetched)
                except OSError:  # the file system has no hard links
                    shutil.copyfile(fetched, temporary)
    return target

"""Bytes under keys, on a local disk or in an S3-compatible bucket.

A key is readable only when it is whole: locally a file is written beside its place, flushed and renamed; an S3 put is atomic.
"""

from __future__ import annotations

import errno
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from mobileclip2.errors import StoreError

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


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

    def fetch(self, key: str) -> Path:
        """A local file with the bytes of ``key``, to be read and not changed."""

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """(key, size in bytes) of every whole key under ``prefix``, sorted."""

    def delete(self, key: str) -> None: ...
    def delete_folder(self, prefix: str) -> None:
        """Deletes every key under ``prefix``, and on a disk the folders that this leaves empty."""


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
def atomic_path(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place when the block ends well.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
    except OSError as error:
        explain(error, str(path))
    finally:
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
        return self._path(key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        with atomic_path(self._path(key)) as temporary:
            temporary.write_bytes(data)

    def put(self, key: str, path: Path) -> None:
        with atomic_path(self._path(key)) as temporary:
            shutil.copyfile(path, temporary)

    def fetch(self, key: str) -> Path:
        return self._path(key)

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
            if parent == self.root or any(parent.iterdir()):
                break
            parent.rmdir()


class S3Storage:
    """Any S3-compatible endpoint, with the identity that boto3 finds by itself; no key is ever read from a profile."""

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self.url = url.rstrip("/")
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.cache = cache or Path(tempfile.gettempdir()) / f"mobileclip2-cache-{os.getuid()}"
        self._client: S3Client | None = None

    @property
    def client(self) -> S3Client:
        if self._client is None:
            import boto3
            from botocore.config import Config

            self._client = boto3.client("s3", config=Config(retries={"mode": "standard", "max_attempts": 8}))
        return self._client

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_client": None}

    @contextmanager
    def _explained(self, key: str) -> Iterator[None]:
        from botocore.exceptions import BotoCoreError, ClientError

        place = f"{self.url}/{key}"
        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            if code in {"404", "NoSuchKey", "NotFound"}:
                raise FileNotFoundError(place) from None
            raise StoreError(
                f"{place}: the object store answered {code}; check the bucket and the rights of this identity"
            ) from None
        except BotoCoreError as error:
            raise StoreError(f"{place}: cannot reach the object store: {error}") from None

    def exists(self, key: str) -> bool:
        try:
            with self._explained(key):
                self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except FileNotFoundError:
            return False
        return True

    def look(self, key: str) -> str | None:
        try:
            return self.etag(key)
        except FileNotFoundError:
            return None

    def look_into(self, folder: str) -> str:
        return ""  # a bucket has no folders to look at, and listing thousands of keys is no plan's business

    def folders(self, prefix: str) -> list[str]:
        start = f"{self.prefix}{prefix.rstrip('/')}/"
        with self._explained(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=start, Delimiter="/"
            )
            found = [item["Prefix"] for page in pages for item in page.get("CommonPrefixes", [])]
        return sorted(name.removeprefix(start).rstrip("/") for name in found)

    def read(self, key: str) -> bytes:
        with self._explained(key):
            return self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"].read()

    def write(self, key: str, data: bytes) -> None:
        with self._explained(key):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, ChecksumAlgorithm="SHA256")

    def create(self, key: str, data: bytes) -> bool:
        """Writes where there is nothing yet; False where there is something."""
        return self._write_if(key, data, IfNoneMatch="*")

    def replace(self, key: str, data: bytes, etag: str) -> bool:
        """Writes over what has this ETag; False where something else is by now."""
        return self._write_if(key, data, IfMatch=etag)

    def _write_if(self, key: str, data: bytes, **condition: str) -> bool:
        from botocore.exceptions import ClientError

        try:
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, **condition)  # type: ignore[arg-type]
        except ClientError as error:
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if status in {404, 409, 412}:
                return False
            with self._explained(key):
                raise
        return True

    def put(self, key: str, path: Path) -> None:
        with self._explained(key):
            self.client.upload_file(str(path), self.bucket, self.prefix + key)

    def fetch(self, key: str) -> Path:
        with self._explained(key):
            head = self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
            identity = hashlib.sha256(f"{self.url}/{key}:{head['ETag']}".encode()).hexdigest()[:32]
            local = self.cache / identity / Path(key).name
            if not local.is_file() or local.stat().st_size != head["ContentLength"]:
                with atomic_path(local) as temporary:
                    self.client.download_file(self.bucket, self.prefix + key, str(temporary))
            return local

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        with self._explained(prefix):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", []):
                    yield item["Key"].removeprefix(self.prefix), item["Size"]

    def etags(self) -> Iterator[tuple[str, str]]:
        """(key, ETag) of everything in the bucket under the prefix: one request for a thousand."""
        with self._explained(""):
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            for page in pages:
                for item in page.get("Contents", []):
                    yield item["Key"].removeprefix(self.prefix), item["ETag"].strip('"')

    def delete(self, key: str) -> None:
        with self._explained(key):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def delete_folder(self, prefix: str) -> None:
        for key, _ in list(self.list(f"{prefix.rstrip('/')}/")):
            self.delete(key)

    def etag(self, key: str) -> str:
        with self._explained(key):
            return self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)["ETag"].strip('"')


def open_storage(url: str) -> Storage:
    return S3Storage(url) if url.startswith("s3://") else LocalStorage(url)

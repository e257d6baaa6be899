"""Storage in an S3-compatible bucket.

Requests are retried while the store is unreachable or throttles. Each object has the sha256 of its bytes in its metadata.
Downloads are checked against this hash, or against the ETag for objects of other programs. Uploads are checked against the
returned ETag. Writes are atomic.
"""

from __future__ import annotations

import hashlib
import io
import logging
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypedDict, TypeVar, Unpack

from mobileclip2.errors import DamagedOutput, ShardError, StoreError
from mobileclip2.extras import needs
from mobileclip2.store import user_cache, verified
from mobileclip2.store.storage import atomic_path, file_sha256, has_end

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef
    from s3transfer.futures import TransferFuture

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
"""time limit of the retries of a request"""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
"""timeouts of one attempt"""

ATTEMPTS = 3
"""attempts of botocore within each of our attempts; botocore retries the parts of a large object separately"""

ALTERED_ATTEMPTS = 5
"""attempts after corrupted transfers"""

PART_BYTES = 16 << 20
"""part size of multipart transfers in bytes"""

NOT_FOUND = {"404", "NoSuchKey", "NotFound"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
TRANSIENT = {"429", "SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "IncompleteBody", "BadDigest"}
"""codes to retry, in addition to HTTP status 500 and above"""

REPLACED = "the object was replaced while it was downloaded"

_HASH = "sha256"
_jitter = random.Random()  # training uses the global generator, and retries must not change its sequence


def split_s3(url: str) -> tuple[S3Storage, str]:
    """Split an ``s3://`` URL into the storage of the bucket and the key."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    return S3Storage(f"s3://{bucket}"), key


class _Condition(TypedDict, total=False):
    IfMatch: str
    IfNoneMatch: str


class S3Storage:
    """A bucket on an S3-compatible endpoint. boto3 provides the credentials. They are never read from a profile.

    Raises:
        StoreError: in any method, the store is unreachable for :data:`PATIENCE_SECONDS`, it denies the request, or the
            credentials have expired.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""

    @cached_property
    def client(self) -> S3Client:
        """The boto3 client."""
        with needs("aws"):
            import boto3
            from botocore.config import Config

        config = Config(
            retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
            connect_timeout=CONNECT_SECONDS,
            read_timeout=READ_SECONDS,
        )
        client = boto3.client("s3", config=config)
        if "@" in client.meta.endpoint_url:  # errors of botocore repeat the URL
            raise StoreError(
                f"{self.url}: the endpoint of the object store contains a password or key; remove it from AWS_ENDPOINT_URL, "
                "and give credentials in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
        return client

    def exists(self, key: str) -> bool:
        """Return whether the object exists."""
        return self.version_token(key) is not None

    def version_token(self, key: str) -> str | None:
        """Return the ETag of an object, or None if it does not exist."""
        try:
            return self.etag(key)
        except FileNotFoundError:
            return None

    def folder_token(self, folder: str) -> str:
        """Return an empty string, because only a listing of all keys could detect a change."""
        return ""

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the prefixes directly under ``prefix``, sorted."""
        start = f"{prefix.rstrip('/')}/"
        prefixes = [
            item["Prefix"] for page in self._pages(start, Delimiter="/") for item in page.get("CommonPrefixes", [])
        ]
        return sorted(name.removeprefix(self.prefix + start).rstrip("/") for name in prefixes)

    def read(self, key: str) -> bytes:
        """Read an object."""
        return self.read_version(key).data

    def read_version(self, key: str) -> ObjectVersion:
        """Read an object with its ETag and its age. The age uses the clock of the store."""

        def request(client: S3Client) -> ObjectVersion:
            response = client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            data = response["Body"].read()
            _check(response, io.BytesIO(data))
            now = parsedate_to_datetime(response["ResponseMetadata"]["HTTPHeaders"]["date"])
            return ObjectVersion(data, response["ETag"].strip('"'), (now - response["LastModified"]).total_seconds())

        return self._retry(key, request)

    def write(self, key: str, data: bytes) -> None:
        """Write an object atomically."""
        self._retry(key, lambda client: self._put(client, key, data))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object if it does not exist. Return whether it was written.

        After a lost response, a retry returns False although the object was written by this call.
        """
        return self._retry(key, lambda client: self._put(client, key, data, IfNoneMatch="*"))

    def replace(self, key: str, data: bytes, version_token: str) -> bool:
        """Replace an object if it has this ETag. Return whether it was replaced."""
        return self._retry(key, lambda client: self._put(client, key, data, IfMatch=version_token))

    def _put(self, client: S3Client, key: str, data: bytes, **condition: Unpack[_Condition]) -> bool:
        from botocore.exceptions import ClientError

        sent = _Checksums.of(io.BytesIO(data))
        try:
            response = client.put_object(
                Bucket=self.bucket,
                Key=self.prefix + key,
                Body=data,
                ChecksumAlgorithm="SHA256",
                Metadata={_HASH: sent.sha256},
                **condition,
            )
        except ClientError as error:
            if condition and error.response["ResponseMetadata"]["HTTPStatusCode"] in {404, 409, 412}:
                return False
            raise
        try:
            sent.compare(response)
        except _Altered:
            if condition:  # the corrupted object would make the condition of every retry fail
                client.delete_object(Bucket=self.bucket, Key=self.prefix + key)
            raise
        return True

    def put(self, key: str, path: Path) -> None:
        """Store a copy of a local file. Large files are sent in parts."""
        if path.stat().st_size <= PART_BYTES:
            self.write(key, path.read_bytes())
            return
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
        with path.open("rb") as file:
            sent = _Checksums.of(file)

        def request(client: S3Client) -> None:
            with path.open("rb") as file:
                arguments = {"ChecksumAlgorithm": "SHA256", "Metadata": {_HASH: sent.sha256}}
                client.upload_fileobj(file, self.bucket, self.prefix + key, ExtraArgs=arguments, Config=config)
            sent.compare(client.head_object(Bucket=self.bucket, Key=self.prefix + key))

        self._retry(key, request)

    def fetch(self, key: str, etag: str = "") -> Path:
        """Download an object into the cache and return its path. A cached version with the same ETag and hash is reused.

        Raises:
            DamagedOutput: the bytes of the object differ from its hash.
            ShardError: the object has another ETag than ``etag``.
        """

        def request(client: S3Client) -> Path:
            head = client.head_object(Bucket=self.bucket, Key=self.prefix + key)
            if etag and (found := head["ETag"].strip('"')) != etag:
                raise ShardError(
                    f"{self.url}/{key}: the object has changed since the run was planned (ETag {etag} -> {found}); "
                    "leave the sources alone during a run, and run again"
                )
            identity = hashlib.sha256(f"{self.url}/{key}:{head['ETag']}".encode()).hexdigest()[:32]
            local = user_cache.cache_folder() / "s3" / identity / Path(key).name
            user_cache.begin_use()
            user_cache.use(local)
            if not _is_cached(head, local):
                with atomic_path(local) as temporary:
                    with temporary.open("wb") as file, _same_version():
                        if head["ContentLength"] > 2 * PART_BYTES:
                            self._get_parts(client, key, head, file)
                        else:
                            whole = client.get_object(Bucket=self.bucket, Key=self.prefix + key, IfMatch=head["ETag"])
                            shutil.copyfileobj(whole["Body"], file)
                    with temporary.open("rb") as file:
                        _check(head, file)
                verified.record(local, head.get("Metadata", {}).get(_HASH) or head["ETag"])
                _sweep_after(head["ContentLength"])
            return local

        return self._retry(key, request)

    def _get_parts(self, client: S3Client, key: str, head: HeadObjectOutputTypeDef, file: BinaryIO) -> None:
        """Download the version of an object with the ETag of ``head`` in parts."""
        from boto3.s3.transfer import TransferConfig, create_transfer_manager
        from s3transfer.subscribers import BaseSubscriber

        class Planned(BaseSubscriber):
            def on_queued(self, future: TransferFuture, **_: object) -> None:
                # s3transfer requests each part with If-Match; by itself it takes the ETag of a later request
                future.meta.provide_transfer_size(head["ContentLength"])
                future.meta.provide_object_etag(head["ETag"])

        config = TransferConfig(multipart_chunksize=PART_BYTES)
        with create_transfer_manager(client, config) as manager:
            manager.download(self.bucket, self.prefix + key, file, subscribers=[Planned()]).result()
        # without response checksums, s3transfer ignores the given ETag
        if client.head_object(Bucket=self.bucket, Key=self.prefix + key)["ETag"] != head["ETag"]:
            raise _Altered(REPLACED)

    def append(self, key: str, data: bytes) -> None:
        """Append to an object by a conditional replacement, which is retried after a conflict with another writer."""
        while True:
            try:
                current = self.read_version(key)
                is_written = self.replace(key, current.data + data, current.etag)
            except FileNotFoundError:
                is_written = self.create(key, data)
            if is_written:
                return
            time.sleep(_jitter.uniform(0, FIRST_PAUSE))

    def describe(self, key: str) -> tuple[int, str]:
        """Return size in bytes and sha256. An object of another program is downloaded to compute its hash."""
        head = self._head(key)
        return head["ContentLength"], head["Metadata"].get(_HASH) or file_sha256(self.fetch(key))

    def is_complete(self, key: str) -> bool:
        """Return False if the object is truncated."""
        # Our uploads are atomic, so only objects of other programs can be truncated. These have no hash in their metadata.
        return _HASH in self._head(key)["Metadata"] or has_end(self.fetch(key))

    def _head(self, key: str) -> HeadObjectOutputTypeDef:
        return self._retry(key, lambda client: client.head_object(Bucket=self.bucket, Key=self.prefix + key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, size in bytes) for each object under ``prefix``, sorted."""
        for page in self._pages(prefix):
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(self.prefix), item["Size"]

    def etags(self) -> Iterator[tuple[str, str]]:
        """Yield (key, ETag) for each object of the storage, with one request per 1,000 objects."""
        for page in self._pages(""):
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(self.prefix), item["ETag"].strip('"')

    def _pages(self, prefix: str, **more: str) -> Iterator[Mapping[str, Any]]:
        arguments: dict[str, Any] = {"Bucket": self.bucket, "Prefix": self.prefix + prefix, **more}

        def request(client: S3Client) -> Mapping[str, Any]:
            page = client.list_objects_v2(**arguments)
            if not all(item["Key"].startswith(arguments["Prefix"]) for item in page.get("Contents", [])):
                raise _Altered("the listing has keys without its prefix")  # a listing has no checksum
            return page

        while True:
            page = self._retry(prefix, request)
            yield page
            if not page["IsTruncated"]:
                return
            arguments["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        """Delete an object if it exists."""
        self._retry(key, lambda client: client.delete_object(Bucket=self.bucket, Key=self.prefix + key))

    def delete_folder(self, prefix: str) -> None:
        """Delete every object under ``prefix``."""
        for key, _ in list(self.list(f"{prefix.rstrip('/')}/")):
            self.delete(key)

    def delete_temporary(self, prefix: str) -> None:
        """Do nothing. Incomplete multipart uploads are invisible, and a lifecycle rule of the bucket deletes them."""

    def etag(self, key: str) -> str:
        """Return the ETag of an object.

        Raises:
            FileNotFoundError: the object does not exist.
        """
        return self._head(key)["ETag"].strip('"')

    def _retry(self, key: str, request: Callable[[S3Client], T]) -> T:
        """Send a request, retry it after transient errors, and return its result, or raise ``FileNotFoundError``."""
        with needs("aws"):
            from botocore import exceptions as aws
            from s3transfer.exceptions import RetriesExceededError
            from urllib3.exceptions import HTTPError  # raised if the body of an error response breaks off

        broken = aws.HTTPClientError, aws.IncompleteReadError, RetriesExceededError, HTTPError
        url, problem = f"{self.url}/{key}", ""
        pause, deadline = FIRST_PAUSE, time.monotonic() + PATIENCE_SECONDS
        renewed, altered = False, 0
        while True:
            try:
                return request(self.client)
            except aws.ClientError as error:
                code = self._code(error)
                if code in NOT_FOUND:
                    raise FileNotFoundError(url) from None
                if code in EXPIRED and not renewed:
                    self._renew()
                    renewed = True
                    continue
                if code not in TRANSIENT and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                    raise StoreError(f"{url}: {_denial(code)}") from None
                problem = f"the object store answered {code}"
            except (_Altered, aws.FlexibleChecksumError) as error:
                problem = str(error)
                altered += 1
                if altered == ALTERED_ATTEMPTS:
                    raise DamagedOutput(
                        f"{url}: {problem}, {altered} times; the network changes bytes, or the object is damaged: "
                        "check the network, delete a damaged object, and run again"
                    ) from None
            except (*broken, aws.CredentialRetrievalError) as error:
                problem = f"cannot reach the object store: {error}"
            except aws.BotoCoreError as error:
                raise StoreError(
                    f"{url}: cannot reach the object store: {error}; configure the endpoint and the credentials of this "
                    "process: a service account, or AWS_... environment variables"
                ) from None
            if pause == FIRST_PAUSE:
                logger.warning("%s: %s; trying again for up to %.0f s", url, problem, PATIENCE_SECONDS)
            if time.monotonic() + pause > deadline:
                raise StoreError(
                    f"{url}: {problem}, for {PATIENCE_SECONDS:.0f} s; run again when it is back, finished shards are kept"
                ) from None
            time.sleep(pause * _jitter.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _code(self, error: Any) -> str:
        """Return the S3 error code. The response to HEAD has no error code, so a second request gets it."""
        from botocore.exceptions import BotoCoreError, ClientError

        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in {"400", "403"}:
            try:
                self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
            except ClientError as repeated:
                return str(repeated.response.get("Error", {}).get("Code", code))
            except BotoCoreError:
                pass
        return code

    def _renew(self) -> None:
        """Load the credentials again, because they can expire and be renewed during a long run."""
        import boto3

        boto3.setup_default_session()
        self.__dict__.pop("client", None)


@dataclass(frozen=True)
class ObjectVersion:
    """The content of an object, with its ETag and age."""

    data: bytes
    etag: str
    age: float
    """seconds since the last write, measured with the clock of the store"""


_downloaded = 0.0


def _sweep_after(size: int) -> None:
    """Sweep the cache after the first download of a process, and then whenever a twentieth of its limit is downloaded."""
    global _downloaded
    first, _downloaded = _downloaded == 0, _downloaded + size
    if first or _downloaded > user_cache.limit_bytes(user_cache.cache_folder()) / 20:
        user_cache.sweep()
        _downloaded = 1


class _Altered(Exception):
    """The checksum of a transfer does not match."""


@contextmanager
def _same_version() -> Iterator[None]:
    """Raise ``_Altered`` if a download with ``If-Match`` fails because the object was replaced."""
    from botocore.exceptions import ClientError
    from s3transfer.exceptions import S3DownloadFailedError

    try:
        yield
    except S3DownloadFailedError:
        raise _Altered(REPLACED) from None
    except ClientError as error:
        if error.response["ResponseMetadata"]["HTTPStatusCode"] == 412:
            raise _Altered(REPLACED) from None
        raise


@dataclass(frozen=True)
class _Checksums:
    """Size and hashes of an object."""

    size: int
    sha256: str
    etags: tuple[str, ...]
    """ETags of an upload in one part and of an upload in parts of :data:`PART_BYTES`"""

    @classmethod
    def of(cls, file: BinaryIO) -> _Checksums:
        size, sha256, md5, parts = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False), []
        while part := file.read(PART_BYTES):
            size += len(part)
            sha256.update(part)
            md5.update(part)
            parts.append(hashlib.md5(part, usedforsecurity=False).digest())
        joined = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        return cls(size, sha256.hexdigest(), (md5.hexdigest(), f"{joined}-{len(parts)}"))

    def compare(self, response: Mapping[str, Any]) -> None:
        """Raise ``_Altered`` if the ETag of an object differs.

        An ETag is ignored if it is not an MD5 hash, as for encrypted objects, or if it is of another number of parts.
        """
        etag = response["ETag"].strip('"')
        expected = [each for each in self.etags if each[32:] == etag[32:]]
        if expected and _is_md5(response) and etag not in expected:
            raise _Altered("the stored bytes differ from the bytes that were sent")


def _check(response: Mapping[str, Any], file: BinaryIO) -> None:
    """Raise ``_Altered`` if a downloaded file differs from the hash in the object's metadata, or from its ETag."""
    sha256 = response.get("Metadata", {}).get(_HASH)
    received = _Checksums.of(file)
    if sha256 is None:
        received.compare(response)
    if received.size != response["ContentLength"] or (sha256 is not None and received.sha256 != sha256):
        raise _Altered("the received bytes differ from the stored bytes")


def _is_cached(head: Mapping[str, Any], local: Path) -> bool:
    """Return whether a file has the size and the hash of an object. Log a warning for a damaged one."""
    if not local.is_file():
        return False
    sha256 = head.get("Metadata", {}).get(_HASH)
    try:
        if sha256 is None and not verified.is_recorded(local, head["ETag"]):
            with local.open("rb") as file:
                _check(head, file)
            verified.record(local, head["ETag"])
        if local.stat().st_size != head["ContentLength"] or (sha256 and not verified.has_hash(local, sha256)):
            raise _Altered
    except _Altered:
        logger.warning("%s: the cached file is damaged, so it is downloaded again", local)
        return False
    return True


def _is_md5(response: Mapping[str, Any]) -> bool:
    encrypted = response.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in response
    return not encrypted and re.fullmatch(r"\"?[0-9a-f]{32}(-\d+)?\"?", response["ETag"]) is not None


def _denial(code: str) -> str:
    """Return what an error code means and what to do."""
    if code in EXPIRED:
        return f"the credentials have expired ({code}); renew them and run again, finished shards are kept"
    if code == "RequestTimeTooSkewed":
        return f"the clock of this machine differs too much from the object store's ({code}); set it and run again"
    return f"the object store answered {code}; check the bucket and the permissions of this identity"

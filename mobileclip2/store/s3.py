"""Bytes in an S3-compatible bucket, over a network that fails.

A request is made again while the store is away or throttles. An object written here carries the hash of its bytes: what arrives
is compared with it, or with the ETag of an object from elsewhere, and what was stored is compared with what was sent. An object
is there whole or not at all, whatever happens to whoever writes it.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn, TypedDict, TypeVar, Unpack

from mobileclip2.errors import StoreError
from mobileclip2.extras import needs
from mobileclip2.store.storage import atomic_path, file_sha256
from mobileclip2.store.truncation import is_whole

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client
    from mypy_boto3_s3.type_defs import HeadObjectOutputTypeDef

logger = logging.getLogger(__name__)

T = TypeVar("T")

PATIENCE_SECONDS = 300.0
"""how long a request is made again while the store is away"""

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0

CONNECT_SECONDS, READ_SECONDS = 10.0, 60.0
"""of silence, after which a request counts as lost"""

ATTEMPTS = 3
"""of botocore itself, within each of ours: it repeats the parts of a large object one by one"""

ALTERED_ATTEMPTS = 5
"""at bytes that arrive as others than were sent"""

PART_BYTES = 16 << 20
"""larger objects go in parts, several at once"""

GONE = {"404", "NoSuchKey", "NotFound"}
EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
SKEWED = {"RequestTimeTooSkewed"}
PASSING = {"429", "SlowDown", "Throttling", "ThrottlingException", "RequestTimeout", "IncompleteBody", "BadDigest"}
"""codes that may be others a moment later, beside every status from 500"""

_HASH = "sha256"
_jitter = random.Random()  # of its own: training draws from the global one


class _Condition(TypedDict, total=False):
    IfMatch: str
    IfNoneMatch: str


class S3Storage:
    """Any S3-compatible endpoint, with the identity that boto3 finds by itself; no key is ever read from a profile.

    Raises:
        StoreError: by every method, when the store stays away for :data:`PATIENCE_SECONDS`, refuses, or the credentials have
            expired and nobody has renewed them.
    """

    def __init__(self, url: str, cache: Path | None = None) -> None:
        self.url = url.rstrip("/")
        bucket, _, prefix = self.url.removeprefix("s3://").partition("/")
        self.bucket, self.prefix = bucket, f"{prefix}/" if prefix else ""
        self.cache = cache or Path(tempfile.gettempdir()) / f"mobileclip2-cache-{os.getuid()}"
        self._client: S3Client | None = None

    @property
    def client(self) -> S3Client:
        """Return the client of boto3, which is made at its first use."""
        if self._client is None:
            with needs("aws"):
                import boto3
                from botocore.config import Config

            config = Config(
                retries={"mode": "standard", "total_max_attempts": ATTEMPTS},
                connect_timeout=CONNECT_SECONDS,
                read_timeout=READ_SECONDS,
            )
            self._client = boto3.client("s3", config=config)
        return self._client

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_client": None}

    def exists(self, key: str) -> bool:
        """Return whether there is an object."""
        return self.look(key) is not None

    def look(self, key: str) -> str | None:
        """Return the ETag, or None if there is no object."""
        try:
            return self.etag(key)
        except FileNotFoundError:
            return None

    def look_into(self, folder: str) -> str:
        """Return an empty string, because a bucket has no folder whose change is cheap to see."""
        return ""  # a bucket has no folders to look at, and listing thousands of keys is no plan's business

    def folders(self, prefix: str) -> list[str]:
        """Return the names of the prefixes directly under ``prefix``, sorted."""
        start = f"{prefix.rstrip('/')}/"
        found = [
            item["Prefix"] for page in self._pages(start, Delimiter="/") for item in page.get("CommonPrefixes", [])
        ]
        return sorted(name.removeprefix(self.prefix + start).rstrip("/") for name in found)

    def read(self, key: str) -> bytes:
        """Read an object.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return self.read_dated(key).data

    def read_dated(self, key: str) -> Dated:
        """Read an object with its ETag and its age in seconds, by the clock of the store."""

        def request(client: S3Client) -> Dated:
            answer = client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            data = answer["Body"].read()
            _check(answer, io.BytesIO(data))
            now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
            return Dated(data, answer["ETag"].strip('"'), (now - answer["LastModified"]).total_seconds())

        return self._ask(key, request)

    def write(self, key: str, data: bytes) -> None:
        """Write an object, whole or not at all."""
        self._ask(key, lambda client: self._put(client, key, data))

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one exists. Return False if one does.

        It may be our own, because an answer can be lost.
        """
        return self._ask(key, lambda client: self._put(client, key, data, IfNoneMatch="*"))

    def replace(self, key: str, data: bytes, etag: str) -> bool:
        """Replace the object that has this ETag. Return False if the object is another one by now."""
        return self._ask(key, lambda client: self._put(client, key, data, IfMatch=etag))

    def _put(self, client: S3Client, key: str, data: bytes, **condition: Unpack[_Condition]) -> bool:
        from botocore.exceptions import ClientError

        sent = _Sums.of(io.BytesIO(data))
        try:
            answer = client.put_object(
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
            sent.compare(answer)
        except _Altered:
            if condition:  # what is there now is no one's, and would hold up every further try
                client.delete_object(Bucket=self.bucket, Key=self.prefix + key)
            raise
        return True

    def put(self, key: str, path: Path) -> None:
        """Store a local file. Large files go in parts."""
        if path.stat().st_size <= PART_BYTES:
            self.write(key, path.read_bytes())
            return
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_threshold=PART_BYTES, multipart_chunksize=PART_BYTES)
        with path.open("rb") as file:
            sent = _Sums.of(file)

        def request(client: S3Client) -> None:
            with path.open("rb") as file:
                arguments = {"ChecksumAlgorithm": "SHA256", "Metadata": {_HASH: sent.sha256}}
                client.upload_fileobj(file, self.bucket, self.prefix + key, ExtraArgs=arguments, Config=config)
            sent.compare(client.head_object(Bucket=self.bucket, Key=self.prefix + key))

        self._ask(key, request)

    def fetch(self, key: str) -> Path:
        """Download an object into the cache unless its present version is there, and return its path."""
        from boto3.s3.transfer import TransferConfig

        config = TransferConfig(multipart_chunksize=PART_BYTES)

        def request(client: S3Client) -> Path:
            head = client.head_object(Bucket=self.bucket, Key=self.prefix + key)
            identity = hashlib.sha256(f"{self.url}/{key}:{head['ETag']}".encode()).hexdigest()[:32]
            local = self.cache / identity / Path(key).name
            if not local.is_file() or local.stat().st_size != head["ContentLength"]:
                with atomic_path(local) as temporary:
                    with temporary.open("wb") as file:
                        if head["ContentLength"] > 2 * PART_BYTES:
                            client.download_fileobj(self.bucket, self.prefix + key, file, Config=config)
                        else:
                            body = client.get_object(Bucket=self.bucket, Key=self.prefix + key)["Body"]
                            shutil.copyfileobj(body, file)
                    with temporary.open("rb") as file:
                        _check(head, file)
            return local

        return self._ask(key, request)

    def append(self, key: str, data: bytes) -> None:
        """Append to an object by replacing it, again and again until no other writer is faster."""
        while True:
            try:
                now = self.read_dated(key)
            except FileNotFoundError:
                if self.create(key, data):
                    return
            else:
                if self.replace(key, now.data + data, now.etag):
                    return
            time.sleep(_jitter.uniform(0, FIRST_PAUSE))  # somebody else was faster

    def describe(self, key: str) -> tuple[int, str]:
        """Return size in bytes and sha256. An object from elsewhere is downloaded for that."""
        head = self._head(key)
        return head["ContentLength"], head["Metadata"].get(_HASH) or file_sha256(self.fetch(key))

    def is_whole(self, key: str) -> bool:
        """Return whether an object is whole. One that was stored here always is."""
        # what was stored here is there whole; what another hand put in its place has no hash of ours
        return _HASH in self._head(key)["Metadata"] or is_whole(self.fetch(key))

    def _head(self, key: str) -> HeadObjectOutputTypeDef:
        return self._ask(key, lambda client: client.head_object(Bucket=self.bucket, Key=self.prefix + key))

    def list(self, prefix: str) -> Iterator[tuple[str, int]]:
        """Yield (key, size in bytes) of every object under ``prefix``, sorted."""
        for page in self._pages(prefix):
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(self.prefix), item["Size"]

    def etags(self) -> Iterator[tuple[str, str]]:
        """(key, ETag) of everything in the bucket under the prefix: one request for a thousand."""
        for page in self._pages(""):
            for item in page.get("Contents", []):
                yield item["Key"].removeprefix(self.prefix), item["ETag"].strip('"')

    def _pages(self, prefix: str, **more: str) -> Iterator[Mapping[str, Any]]:
        question: dict[str, Any] = {"Bucket": self.bucket, "Prefix": self.prefix + prefix, **more}
        while True:
            page = self._ask(prefix, lambda client: client.list_objects_v2(**question))
            yield page
            if not page["IsTruncated"]:
                return
            question["ContinuationToken"] = page["NextContinuationToken"]

    def delete(self, key: str) -> None:
        """Delete an object if it exists."""
        self._ask(key, lambda client: client.delete_object(Bucket=self.bucket, Key=self.prefix + key))

    def delete_folder(self, prefix: str) -> None:
        """Delete every object under ``prefix``."""
        for key, _ in list(self.list(f"{prefix.rstrip('/')}/")):
            self.delete(key)

    def tidy(self, prefix: str) -> None:
        """Do nothing: no reader sees the parts that a killed writer sent, and a rule of the bucket removes them."""
        pass  # parts of objects that a killed writer sent are seen by nobody; a rule of the bucket lets them go

    def etag(self, key: str) -> str:
        """Return the ETag of an object.

        Raises:
            FileNotFoundError: there is no such object.
        """
        return self._head(key)["ETag"].strip('"')

    def _ask(self, key: str, request: Callable[[S3Client], T]) -> T:
        """Return what the store answers, after as many tries as needed.

        Raises:
            FileNotFoundError: there is no such key.
        """
        with needs("aws"):
            from botocore.exceptions import BotoCoreError, ClientError, FlexibleChecksumError
            from s3transfer.exceptions import RetriesExceededError
            from urllib3.exceptions import HTTPError  # as it is where the body of a refusal breaks off

        place, problem = f"{self.url}/{key}", ""
        pause, deadline = FIRST_PAUSE, time.monotonic() + PATIENCE_SECONDS
        renewed, altered = False, 0
        while True:
            try:
                return request(self.client)
            except ClientError as error:
                code = self._code(error)
                if code in GONE:
                    raise FileNotFoundError(place) from None
                if code in EXPIRED and not renewed:
                    self._renew()
                    renewed = True
                    continue
                if code not in PASSING and error.response["ResponseMetadata"]["HTTPStatusCode"] < 500:
                    _refused(place, code)
                problem = f"the object store answered {code}"
            except (_Altered, FlexibleChecksumError) as error:
                problem = str(error)
                altered += 1
                if altered == ALTERED_ATTEMPTS:
                    raise StoreError(
                        f"{place}: {problem}, {altered} times; something on the way to the object store changes bytes, or the "
                        "object is damaged: find out which, delete it if so, and run again"
                    ) from None
            except (BotoCoreError, RetriesExceededError, HTTPError) as error:
                problem = f"cannot reach the object store: {error}"
                if not _passes(error):
                    raise StoreError(
                        f"{place}: {problem}; give this process an address and an identity there: a service account, or "
                        "AWS_... in its environment"
                    ) from None
            if pause == FIRST_PAUSE:
                logger.warning("%s: %s; trying again for up to %.0f s", place, problem, PATIENCE_SECONDS)
            if time.monotonic() + pause > deadline:
                raise StoreError(
                    f"{place}: {problem}, for {PATIENCE_SECONDS:.0f} s; run again when it is back, finished shards are kept"
                ) from None
            time.sleep(pause * _jitter.uniform(0.5, 1))
            pause = min(2 * pause, LONGEST_PAUSE)

    def _code(self, error: Any) -> str:
        """S3's own code. The answer to a HEAD has no body that could hold one, so another request asks for it."""
        from botocore.exceptions import BotoCoreError, ClientError

        code = str(error.response.get("Error", {}).get("Code", ""))
        if code in {"400", "403"}:
            try:
                self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
            except ClientError as same:
                return str(same.response.get("Error", {}).get("Code", code))
            except BotoCoreError:
                pass
        return code

    def _renew(self) -> None:
        """Read the credentials again. They may expire during a long run, and be renewed."""
        import boto3

        boto3.setup_default_session()
        self._client = None


@dataclass(frozen=True)
class Dated:
    """An object as it was at one moment."""

    data: bytes
    etag: str
    age: float
    """seconds since it was written, both by the store's own clock"""


class _Altered(Exception):
    """Bytes arrived as others than were sent."""


@dataclass(frozen=True)
class _Sums:
    """What identifies the bytes of an object."""

    size: int
    sha256: str
    etags: tuple[str, ...]
    """that they get when they are sent whole, and in parts of :data:`PART_BYTES`"""

    @classmethod
    def of(cls, file: BinaryIO) -> _Sums:
        size, sha256, md5, parts = 0, hashlib.sha256(), hashlib.md5(usedforsecurity=False), []
        while part := file.read(PART_BYTES):
            size += len(part)
            sha256.update(part)
            md5.update(part)
            parts.append(hashlib.md5(part, usedforsecurity=False).digest())
        together = hashlib.md5(b"".join(parts), usedforsecurity=False).hexdigest()
        return cls(size, sha256.hexdigest(), (md5.hexdigest(), f"{together}-{len(parts)}"))

    def compare(self, answer: Mapping[str, Any]) -> None:
        """Compare with the ETag of an object.

        Raises:
            _Altered: the ETag is that of other bytes. An ETag that is not an MD5, as of encrypted objects or of
                other parts, is not compared.
        """
        etag = answer["ETag"].strip('"')
        ours = [each for each in self.etags if each[32:] == etag[32:]]
        if ours and _is_md5(answer) and etag not in ours:
            raise _Altered("what was stored is not what was sent")


def _check(answer: Mapping[str, Any], file: BinaryIO) -> None:
    """Compare bytes with the hash that they carry, or else with their ETag.

    Raises:
        _Altered: the bytes are not those that were written.
    """
    stated = answer.get("Metadata", {}).get(_HASH)
    got = _Sums.of(file)
    if stated is None:
        got.compare(answer)
    if got.size != answer["ContentLength"] or (stated is not None and got.sha256 != stated):
        raise _Altered("what arrived is not what was stored")


def _is_md5(answer: Mapping[str, Any]) -> bool:
    encrypted = answer.get("ServerSideEncryption", "AES256") != "AES256" or "SSECustomerAlgorithm" in answer
    return not encrypted and re.fullmatch(r"\"?[0-9a-f]{32}(-\d+)?\"?", answer["ETag"]) is not None


def _passes(error: Exception) -> bool:
    """Whether it is the network, or whoever gives credentials, and not what this process was told."""
    from botocore.exceptions import CredentialRetrievalError, HTTPClientError, IncompleteReadError
    from s3transfer.exceptions import RetriesExceededError
    from urllib3.exceptions import HTTPError

    passing = (HTTPClientError, IncompleteReadError, CredentialRetrievalError, RetriesExceededError, HTTPError)
    return isinstance(error, passing)


def _refused(place: str, code: str) -> NoReturn:
    if code in EXPIRED:
        raise StoreError(
            f"{place}: the credentials have expired ({code}); renew them where this process takes them from and run again, "
            "finished shards are kept"
        ) from None
    if code in SKEWED:
        raise StoreError(
            f"{place}: the clock of this machine is far from the object store's ({code}); set it and run again"
        ) from None
    raise StoreError(
        f"{place}: the object store answered {code}; check the bucket and the rights of this identity"
    ) from None

"""Leases: a second run waits for the first one and does not compute the same artifact again.

On a disk, a lease is a file lock. The operating system releases it when the process ends. In a bucket, a lease is a small
object with a conditional write. Its holder renews it, and it expires without renewal. Expiry uses the clock of the store,
because the clocks of machines differ. A lease has a payload that lists what its holder uses, which garbage collection keeps.

A process can be stopped for longer than a lease lasts. The holder therefore checks its lease before each write, and asks the
store before it commits. It measures the time since its last renewal with a clock that also runs while the machine sleeps.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn, Protocol

from mobileclip2.errors import LeaseLost, StoreError
from mobileclip2.store.s3 import ObjectVersion, S3Storage
from mobileclip2.store.storage import LocalStorage, Storage, explain, explained

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
RENEW_SECONDS = 20.0
VOID_SECONDS = 90.0
"""seconds without renewal after which a lease in a bucket expires"""

DATE_SECONDS = 1.0
"""resolution of the dates of a bucket; a holder gives up this much before others see its lease expire"""

WRITE_SECONDS = 2.0
"""patience with a lease file that is locked and has no whole content yet"""

FOLDER = ".leases"

DELETING = "gc/deleting"
"""lease that gc holds while it looks at all other leases and deletes one output"""

USES_NOTHING = "uses nothing"
"""payload of a holder for which garbage collection keeps nothing"""

Waiting = Callable[[], None]


class Held(NamedTuple):
    """A lease that a process holds."""

    url: str
    holder: str
    """unique for each time that a lease is taken, or empty if the lease is unreadable"""
    name: str
    payload: str | None
    """None if the lease is unreadable"""


class Fence(Protocol):
    """Refuses writes of a process that lost its lease."""

    def check(self) -> None:
        """Raise LeaseLost if the lease was not renewed in time or another process holds it. Called before each write."""

    def renew(self) -> None:
        """Renew the lease, or raise LeaseLost. Called immediately before the manifest is written."""


class Lease:
    """The leases that a block of :func:`acquire` holds. Without leases, it refuses nothing."""

    def __init__(self, holder: str = "", *fences: Fence) -> None:
        self.holder = holder
        self._fences = list(fences)

    def check(self) -> None:
        """Check without a request that no lease was lost."""
        for fence in self._fences:
            fence.check()

    def renew(self) -> None:
        """Renew the leases in the store."""
        for fence in self._fences:
            fence.renew()


@contextmanager
def acquire(storage: Storage, names: list[str], payload: str = "", waiting: Waiting = lambda: None) -> Iterator[Lease]:
    """Hold several leases during the block. ``waiting`` is called once before each wait for another holder."""
    lease = Lease(uuid.uuid4().hex)
    with ExitStack() as stack:
        for name in sorted(set(names)):  # the same order in every run prevents a deadlock
            is_waiting = False
            while (taken := _take(storage, _key(name), lease.holder, name, payload)) is None:
                if not is_waiting:
                    waiting()
                    is_waiting = True
                time.sleep(POLL_SECONDS)
            lease._fences.append(taken)
            stack.callback(taken.release)
        yield lease


def all_held(storage: Storage) -> list[Held]:
    """Return all leases that are held."""
    return [held for key, _ in list(storage.list(f"{FOLDER}/")) if (held := _held(storage, key))]


def is_held(storage: Storage, name: str) -> bool:
    """Return whether a process holds the lease."""
    return _held(storage, _key(name)) is not None


def wait_for_holder(storage: Storage, name: str) -> None:
    """Wait until the process that holds a lease now has released it. Do not wait for later holders."""
    first = _held(storage, _key(name))
    while first is not None and first == _held(storage, _key(name)):
        time.sleep(POLL_SECONDS)


def sweep(storage: Storage) -> None:
    """Delete the leases of killed processes."""
    for key, _ in list(storage.list(f"{FOLDER}/")):
        if taken := _take(storage, key, uuid.uuid4().hex, "", USES_NOTHING):
            taken.release()


class WorkerFence:
    """Checks in the process of a worker that the run which started it still holds the lease of an output."""

    def __init__(self, storage: Storage, name: str, holder: Callable[[], str]) -> None:
        self._storage, self._name, self._holder = storage, name, holder

    def check(self) -> None:
        """Read the lease from the store."""
        held = _held(self._storage, _key(self._name))
        if held is None or held.holder != self._holder():
            _lost(f"{self._storage.url}/{self._name}")

    renew = check


def _lost(what: str) -> NoReturn:
    raise LeaseLost(
        f"{what}: this lease was lost, and another run may use or delete these files; run again, "
        "finished shards are kept"
    )


def _key(name: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _take(storage: Storage, key: str, holder: str, name: str, payload: str) -> _FileLease | _ObjectLease | None:
    """Take a lease, or return None if another process holds it."""
    if isinstance(storage, S3Storage):
        taken = _ObjectLease(storage, key, holder, name, payload)
        return taken if taken.claim() else None
    assert isinstance(storage, LocalStorage)
    path = storage.root / key
    descriptor = _lock(path)
    return None if descriptor is None else _FileLease(path, descriptor, name, _body(holder, name, payload))


def _body(holder: str, name: str, payload: str) -> bytes:
    return json.dumps({"holder": holder, "name": name, "renewed": time.time(), "payload": payload}).encode()


def _parse(url: str, data: bytes) -> Held:
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        body = json.loads(data)
        holder, name, payload = body["holder"], body.get("name", ""), body["payload"]
        if isinstance(holder, str) and isinstance(name, str) and isinstance(payload, str):
            return Held(url, holder, name, payload)
    return Held(url, "", "", None)


class _FileLease:
    def __init__(self, path: Path, descriptor: int, name: str, body: bytes) -> None:
        self._path, self._descriptor, self._name = path, descriptor, name
        try:
            os.ftruncate(descriptor, 0)
            while body:  # a disk that fills up takes a part
                body = body[os.write(descriptor, body) :]
        except OSError as error:
            os.close(descriptor)  # otherwise this process would wait for itself at its next attempt
            explain(error, str(path))

    def check(self) -> None:
        if not _is_file_of(self._descriptor, self._path):
            _lost(f"{self._path.parents[1]}/{self._name}")

    renew = check

    def release(self) -> None:
        # Deleted under the lock. A forked child can keep the descriptor open, and a waiting process looks for the new file.
        with suppress(OSError):
            if _is_file_of(self._descriptor, self._path):
                self._path.unlink()
        os.close(self._descriptor)


def _is_file_of(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _lock(path: Path) -> int | None:
    while True:
        with explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        if _is_file_of(descriptor, path):
            return descriptor
        os.close(descriptor)  # its holder released and deleted it in between


def _held(storage: Storage, key: str) -> Held | None:
    url = f"{storage.url}/{key}"
    if isinstance(storage, S3Storage):
        held = _read_object(storage, key)
        return None if held is None or _is_expired(held) else _parse(url, held.data)
    assert isinstance(storage, LocalStorage)
    deadline = time.monotonic() + WRITE_SECONDS
    while True:
        data = _read_locked(storage.root / key)
        if data is None:
            return None
        found = _parse(url, data)
        if found.payload is not None or time.monotonic() > deadline:
            return found
        time.sleep(WRITE_SECONDS / 100)  # its holder may be writing it


def _read_locked(path: Path) -> bytes | None:
    """Return the content of a lease file, or None if no process holds it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    except OSError as error:
        explain(error, str(path))
    with os.fdopen(descriptor, "rb") as file:
        try:
            # shared: readers do not look like holders to each other
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read()
    return None


class _ObjectLease:
    def __init__(self, storage: S3Storage, key: str, holder: str, name: str, payload: str) -> None:
        self._storage, self._key, self._holder = storage, key, holder
        self._name, self._payload = name, payload
        self._is_lost = False
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, daemon=True)

    def claim(self) -> bool:
        self._renewed = _now()
        taken = self._storage.create(self._key, self._body())
        # absent: it was released in between, and the next attempt can take it
        if not taken and (held := _read_object(self._storage, self._key)):
            taken = _is_expired(held) and self._storage.replace(self._key, self._body(), held.etag)
            taken = taken or self._is_ours(held)  # our own write succeeded if its response was lost
        if taken:
            self._thread.start()
        return taken

    def _body(self) -> bytes:
        return _body(self._holder, self._name, self._payload)

    def _is_ours(self, held: ObjectVersion) -> bool:
        return _parse("", held.data).holder == self._holder

    def check(self) -> None:
        # compared with the time before the last renewal was sent, which the store cannot have dated earlier
        if self._is_lost or _now() - self._renewed > VOID_SECONDS - DATE_SECONDS:
            self._lose()

    def _lose(self) -> NoReturn:
        self._is_lost = True
        _lost(f"{self._storage.url}/{self._name}")

    def renew(self) -> None:
        self.check()
        began = _now()
        held = _read_object(self._storage, self._key)
        if held is None or not self._is_ours(held):
            self._lose()
        if not self._storage.replace(self._key, self._body(), held.etag):
            held = _read_object(self._storage, self._key)
            # absent: our own write was corrupted on its way and deleted
            if not self._storage.create(self._key, self._body()) if held is None else not self._is_ours(held):
                self._lose()
        self.check()
        self._renewed = max(self._renewed, began)

    def _keep_renewing(self) -> None:
        while not self._ended.wait(RENEW_SECONDS):
            try:
                self.renew()
            except LeaseLost as error:
                logger.warning("%s", error)
                return
            except StoreError as error:
                logger.warning("cannot renew a lease: %s", error)

    def release(self) -> None:
        self._ended.set()
        self._thread.join()
        try:
            held = _read_object(self._storage, self._key)
            if held is not None and self._is_ours(held):
                self._storage.delete(self._key)
        except StoreError as error:  # the lease expires, and the result of the block must not be lost
            logger.warning("cannot release a lease, it expires after %.0f s: %s", VOID_SECONDS, error)


def _now() -> float:
    """Return seconds of a clock that cannot be set, and that runs while the process is stopped or the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def _read_object(storage: S3Storage, key: str) -> ObjectVersion | None:
    try:
        return storage.read_version(key)
    except FileNotFoundError:
        return None


def _is_expired(held: ObjectVersion) -> bool:
    return held.age > VOID_SECONDS

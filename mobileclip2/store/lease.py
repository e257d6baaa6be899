"""Leases: a second run waits for the first one and does not compute the same artifact again.

On a disk, a lease is a file lock. The operating system releases it when the process ends. In a bucket, a lease is a small
object with a conditional write. Its holder renews it, and it expires without renewal. Expiry uses the clock of the store,
because the clocks of machines differ. A lease has a payload that lists what its holder uses, which garbage collection keeps.
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
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mobileclip2.errors import StoreError
from mobileclip2.store.s3 import ObjectVersion, S3Storage
from mobileclip2.store.storage import LocalStorage, Storage, explain

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
RENEW_SECONDS = 20.0
VOID_SECONDS = 90.0
"""seconds without renewal after which a lease in a bucket expires"""

FOLDER = ".leases"

Waiting = Callable[[], None]
Release = Callable[[], None]


@contextmanager
def acquire(storage: Storage, names: list[str], payload: str = "", waiting: Waiting = lambda: None) -> Iterator[None]:
    """Hold several leases during the block. ``waiting`` is called once before each wait for another holder."""
    with ExitStack() as stack:
        for name in sorted(set(names)):  # the same order in every run prevents a deadlock
            is_waiting = False
            while (release := _take(storage, _key(name), payload)) is None:
                if not is_waiting:
                    waiting()
                    is_waiting = True
                time.sleep(POLL_SECONDS)
            stack.callback(release)
        yield


def payloads(storage: Storage) -> list[str]:
    """Return the payloads of all leases that are held, without duplicates."""
    held = [_held_payload(storage, key) for key, _ in list(storage.list(f"{FOLDER}/"))]
    return list(dict.fromkeys(payload for payload in held if payload is not None))


def is_held(storage: Storage, name: str) -> bool:
    """Return whether a process holds the lease."""
    return _held_payload(storage, _key(name)) is not None


def _key(name: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _take(storage: Storage, key: str, payload: str) -> Release | None:
    """Take a lease. Return its release function, or None if another process holds the lease."""
    if isinstance(storage, S3Storage):
        return _take_object(storage, key, payload)
    assert isinstance(storage, LocalStorage)
    return _take_file(storage.root / key, payload)


def _take_file(path: Path, payload: str) -> Release | None:
    descriptor = _lock(path)
    if descriptor is None:
        return None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, payload.encode())
    except OSError as error:
        os.close(descriptor)  # otherwise this process would wait for itself at its next attempt
        explain(error, str(path))
    # The file is not deleted, because another run could lock a new file while a second run waits for the old one.
    return lambda: os.close(descriptor)


def _lock(path: Path) -> int | None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        explain(error, str(path))
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def _held_payload(storage: Storage, key: str) -> str | None:
    if isinstance(storage, S3Storage):
        held = _read_object(storage, key)
        return None if held is None or _is_expired(held) else str(json.loads(held.data)["note"])
    assert isinstance(storage, LocalStorage)
    path = storage.root / key
    if not path.exists():
        return None
    descriptor = _lock(path)
    if descriptor is None:
        return path.read_text()
    os.close(descriptor)
    return None


def _take_object(storage: S3Storage, key: str, payload: str) -> Release | None:
    holder = uuid.uuid4().hex

    def body() -> bytes:
        return json.dumps({"holder": holder, "renewed": time.time(), "note": payload}).encode()

    if not _claim(storage, key, holder, body()):
        return None
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            try:
                held = _read_object(storage, key)
                if held is None or _holder(held) != holder:
                    logger.warning(
                        "%s/%s: this lease was lost; another run may compute the same artifact", storage.url, key
                    )
                    return
                storage.replace(key, body(), held.etag)
            except StoreError as error:
                logger.warning("cannot renew a lease: %s", error)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()

    def release() -> None:
        ended.set()
        thread.join()
        try:
            held = _read_object(storage, key)
            if held is not None and _holder(held) == holder:
                storage.delete(key)
        except StoreError as error:  # the lease expires, and the result of the block must not be lost
            logger.warning("cannot release a lease, it expires after %.0f s: %s", VOID_SECONDS, error)

    return release


def _claim(storage: S3Storage, key: str, holder: str, body: bytes) -> bool:
    if storage.create(key, body):
        return True
    held = _read_object(storage, key)
    if held is None:
        return False  # it was released in between, and the next attempt can take it
    if _is_expired(held) and storage.replace(key, body, held.etag):
        return True
    return _holder(held) == holder  # our own write succeeded if its response was lost


def _read_object(storage: S3Storage, key: str) -> ObjectVersion | None:
    try:
        return storage.read_version(key)
    except FileNotFoundError:
        return None


def _holder(held: ObjectVersion) -> str:
    return str(json.loads(held.data)["holder"])


def _is_expired(held: ObjectVersion) -> bool:
    return held.age > VOID_SECONDS

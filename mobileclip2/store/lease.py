"""Who is computing what: a second run waits for the first instead of computing the same again.

On a disk a lease is a file lock, which ends with its process however that ends. In a bucket it is a small object, created only
where there is none, renewed while its holder lives, and void when it was not renewed for a while.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mobileclip2.store.storage import LocalStorage, S3Storage, Storage

POLL_SECONDS = 0.5
RENEW_SECONDS = 20.0
VOID_SECONDS = 90.0
"""An object's lease that was not renewed for so long has lost its holder."""

FOLDER = ".leases"

Waiting = Callable[[], None]


@contextmanager
def hold(storage: Storage, prefixes: list[str], waiting: Waiting = lambda: None) -> Iterator[None]:
    """Holds the leases of several outputs; calls ``waiting`` when it must wait for another holder.

    They are taken in sorted order, so that two runs cannot wait for each other.
    """
    with ExitStack() as stack:
        for prefix in sorted(prefixes):
            told = False
            while not (lease := _try(storage, prefix)):
                if not told:
                    waiting()
                    told = True
                time.sleep(POLL_SECONDS)
            stack.callback(lease)
        yield


def is_held(storage: Storage, prefix: str) -> bool:
    """Whether somebody computes this output now."""
    release = _try(storage, prefix)
    if release:
        release()
    return release is None


def _name(prefix: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(prefix.encode()).hexdigest()[:32]}"


def _try(storage: Storage, prefix: str) -> Callable[[], None] | None:
    """Takes a lease and returns what gives it back, or None while another holds it."""
    if isinstance(storage, S3Storage):
        return _try_object(storage, _name(prefix))
    assert isinstance(storage, LocalStorage)
    return _try_file(storage.root / _name(prefix))


def _try_file(path: Path) -> Callable[[], None] | None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # the file stays: deleting it would let a third run lock a new one while a second still waits for the old
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return lambda: os.close(descriptor)


def _try_object(storage: S3Storage, key: str) -> Callable[[], None] | None:
    holder = uuid.uuid4().hex
    if not _claim(storage, key, holder):
        return None
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            storage.write(key, _text(holder))

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()

    def release() -> None:
        ended.set()
        thread.join()
        storage.delete(key)

    return release


def _claim(storage: S3Storage, key: str, holder: str) -> bool:
    if storage.create(key, _text(holder)):
        return True
    try:
        etag = storage.etag(key)
        renewed = float(json.loads(storage.read(key))["renewed"])
    except FileNotFoundError:
        return False  # just given back: the next try gets it
    return time.time() - renewed > VOID_SECONDS and storage.replace(key, _text(holder), etag)


def _text(holder: str) -> bytes:
    return json.dumps({"holder": holder, "renewed": time.time()}).encode()

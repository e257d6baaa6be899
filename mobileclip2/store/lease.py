"""Who is computing what: a second run waits for the first instead of computing the same again.

On a disk a lease is a file lock, which ends with its process however that ends. In a bucket it is a small object, created only
where there is none, renewed while its holder lives, and void when it was not renewed for a while: by the clock of the store, for
those of machines may differ. A lease carries a note of its holder's: what it is doing, so that nothing which it needs is swept
away meanwhile.
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
from mobileclip2.store.s3 import Dated, S3Storage
from mobileclip2.store.storage import LocalStorage, Storage, explain

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.5
RENEW_SECONDS = 20.0
VOID_SECONDS = 90.0
"""An object's lease that was not renewed for so long has lost its holder."""

FOLDER = ".leases"

Waiting = Callable[[], None]
Release = Callable[[], None]


@contextmanager
def acquire(storage: Storage, names: list[str], note: str = "", waiting: Waiting = lambda: None) -> Iterator[None]:
    """Hold several leases. Call ``waiting`` before a wait for another holder.

    They are taken in sorted order, so that two runs cannot wait for each other.
    """
    with ExitStack() as stack:
        for name in sorted(set(names)):
            told = False
            while (release := _take(storage, _key(name), note)) is None:
                if not told:
                    waiting()
                    told = True
                time.sleep(POLL_SECONDS)
            stack.callback(release)
        yield


def notes(storage: Storage) -> list[str]:
    """Return the notes of all leases that are held now."""
    found = []
    for key, _ in list(storage.list(f"{FOLDER}/")):
        note = _held_note(storage, key)
        if note is not None and note not in found:
            found.append(note)
    return found


def is_held(storage: Storage, name: str) -> bool:
    """Whether somebody holds a lease now."""
    return _held_note(storage, _key(name)) is not None


def _key(name: str) -> str:
    return f"{FOLDER}/{hashlib.sha256(name.encode()).hexdigest()[:32]}"


def _take(storage: Storage, key: str, note: str) -> Release | None:
    """Take a lease and return the function that gives it back, or None while another process holds it."""
    if isinstance(storage, S3Storage):
        return _take_object(storage, key, note)
    assert isinstance(storage, LocalStorage)
    return _take_file(storage.root / key, note)


def _take_file(path: Path, note: str) -> Release | None:
    descriptor = _lock(path)
    if descriptor is None:
        return None
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, note.encode())
    except OSError as error:
        os.close(descriptor)  # else this process would wait for itself when it tries again
        explain(error, str(path))
    # the file stays: deleting it would let a third run lock a new one while a second still waits for the old
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


def _held_note(storage: Storage, key: str) -> str | None:
    if isinstance(storage, S3Storage):
        held = _read_object(storage, key)
        return None if held is None or _is_void(held) else str(json.loads(held.data)["note"])
    assert isinstance(storage, LocalStorage)
    path = storage.root / key
    if not path.exists():
        return None
    descriptor = _lock(path)
    if descriptor is None:
        return path.read_text()
    os.close(descriptor)
    return None


def _take_object(storage: S3Storage, key: str, note: str) -> Release | None:
    holder = uuid.uuid4().hex

    def body() -> bytes:
        return json.dumps({"holder": holder, "renewed": time.time(), "note": note}).encode()

    if not _claim(storage, key, holder, body()):
        return None
    ended = threading.Event()

    def renew() -> None:
        while not ended.wait(RENEW_SECONDS):
            try:
                held = _read_object(storage, key)
                if held is None or _holder(held) != holder:
                    logger.warning("%s/%s: this lease was lost; another run may compute the same", storage.url, key)
                    return
                storage.replace(key, body(), held.etag)
            except StoreError as error:
                logger.warning("a lease is not renewed: %s", error)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()

    def release() -> None:
        ended.set()
        thread.join()
        try:
            held = _read_object(storage, key)
            if held is not None and _holder(held) == holder:
                storage.delete(key)
        except StoreError as error:  # what the work came to matters more, and the lease becomes void by itself
            logger.warning("a lease is left behind: %s", error)

    return release


def _claim(storage: S3Storage, key: str, holder: str, body: bytes) -> bool:
    if storage.create(key, body):
        return True
    held = _read_object(storage, key)
    if held is None:
        return False  # just given back: the next try gets it
    if _is_void(held) and storage.replace(key, body, held.etag):
        return True
    return _holder(held) == holder  # it was made, and the answer was lost


def _read_object(storage: S3Storage, key: str) -> Dated | None:
    try:
        return storage.read_dated(key)
    except FileNotFoundError:
        return None


def _holder(held: Dated) -> str:
    return str(json.loads(held.data)["holder"])


def _is_void(held: Dated) -> bool:
    return held.age > VOID_SECONDS

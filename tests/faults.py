"""Faults that strike a process of the tests from inside.

Moments are counted, not timed. A process passes one moment just before each file that it stores gets its name, and
one just after. The same strike therefore hits the same work on machines of any speed.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from mobileclip2.executors.commands import LOGS

T = TypeVar("T")

Later = Literal[
    "flipped artifact",
    "flipped checkpoint",
    "flipped S3 cache",
    "flipped feature cache",
    "flipped stat cache",
    "swapped source",
    "lost lease",
    "stolen lease",
    "gc",
]
"""faults that were added after the others. ``flipped checkpoint`` also kills the process. ``gc`` only writes a note, and the
process that reads the notes starts a collection"""
What = Literal[
    "kill",
    "full disk",
    "truncate",
    "vanish",
    "clock",
    Later,
]

KILLS: tuple[What, ...] = ("kill", "flipped checkpoint")
BALLAST = "ballast"
SWAPPED = "swapped"
"""suffix of a source tar while another one is in its place"""
ARMED = "TESTS_FAULTS"
"""environment variable with the arguments of :func:`arm`"""


@dataclass(frozen=True)
class Strike:
    """A fault that happens to a process once."""

    name: str
    who: Literal["run", "worker", "pod"]
    """a worker is a process of a run's pool"""
    what: What
    moment: int
    """counted from 1 in each process"""
    process: int = 1
    """the n-th worker or pod of a run, in the order of their first files; 0 for any of them"""
    size: int = 0
    """The file and byte of a damage, or the seconds of a clock."""
    lasts: int = 0
    """moments after which a swapped source is put back"""


def gate(strikes: list[Strike], folder: Path, store: str) -> dict[str, Any]:
    """Return the arguments of :func:`arm` as JSON values."""
    return {"strikes": [asdict(strike) for strike in strikes], "folder": str(folder), "store": store}


def arm(strikes: list[dict[str, Any]], folder: str, store: str, owner: int = 0) -> None:
    """Arm this process and its workers with strikes. Each strike that has happened leaves a note in ``folder``.

    A full disk is a file next to ``folder`` that fills the file system. ``owner`` is the process ID of the run. The
    server that forks the workers inherits the patches of this function, or imports this module, which arms it.
    """
    from mobileclip2.store import storage
    from mobileclip2.store.s3 import S3Storage

    hasten()
    waiting = [Strike(**strike) for strike in strikes]
    owner = owner or os.getpid()
    os.environ[ARMED] = json.dumps({"strikes": strikes, "folder": folder, "store": store, "owner": owner})
    passed: dict[int, int] = {}
    number: dict[int, int] = {}
    clock = Clock()
    disk = Path(folder).parent

    def moment() -> None:
        process = os.getpid()
        if process not in passed:
            passed[process] = 0
            number[process] = _next(Path(folder)) if process != owner or (waiting and waiting[0].who == "pod") else 1
        passed[process] += 1
        for strike in waiting:
            here = strike.who == "pod" or (strike.who == "run") == (process == owner)
            if not here or strike.process not in {0, number[process]} or passed[process] < strike.moment:
                continue
            note = Path(folder) / strike.name
            if strike.what == "swapped source" and passed[process] == strike.moment + strike.lasts and note.exists():
                put_sources_back(disk)
            if strike.what in OLD:
                if passed[process] == strike.moment:
                    note.touch()
                    meet(strike, disk, store, clock)
            elif not note.exists():
                strike_when_possible(strike, disk, store, note)

    def around(act: Callable[..., T]) -> Callable[..., T]:
        def acting(*some: Any, **more: Any) -> T:
            if any(f"{LOGS}/" in str(each) for each in some):  # a log, which the supervising process of a pod stores
                return act(*some, **more)
            moment()
            done = act(*some, **more)
            moment()
            return done

        return acting

    replace, rename_exclusive = Path.replace, storage.rename_exclusive

    def named_exclusively(temporary: Path, path: Path) -> None:
        rename_exclusive(temporary, path)
        if clock.seconds:
            os.utime(path, (time.time(), time.time()))

    def named(self: Path, target: Path) -> Path:
        path = replace(self, target)
        if clock.seconds:
            os.utime(path, (time.time(), time.time()))
        return path

    Path.replace = around(named)  # type: ignore[method-assign]
    storage.rename_exclusive = around(named_exclusively)
    S3Storage._put = around(S3Storage._put)  # type: ignore[method-assign]


def hasten() -> None:
    """Shorten intervals for real networks and clusters. All processes that share a store need equal lease times."""
    import botocore.retries.standard

    from mobileclip2.store import lease, s3

    s3.READ_SECONDS, s3.FIRST_PAUSE, s3.LONGEST_PAUSE, s3.PATIENCE_SECONDS = 0.5, 0.02, 0.5, 20.0
    lease.POLL_SECONDS, lease.RENEW_SECONDS, lease.VOID_SECONDS = 0.05, 0.5, 6.0
    botocore.retries.standard.ExponentialBackoff.delay_amount = lambda *_: 0.01


OLD: tuple[What, ...] = ("kill", "full disk", "truncate", "vanish", "clock")
"""Faults that strike at their moment. The others wait from their moment on until they have a target."""


def meet(strike: Strike, disk: Path, store: str, clock: Clock) -> None:
    match strike.what:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "full disk":
            fill(disk / BALLAST)
        case "clock":
            clock.step(strike.size)
        case "truncate" | "vanish":
            damage(store, strike.size, truncate=strike.what == "truncate")


def fill(path: Path) -> None:
    """Fill the rest of a file system."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(file, bytes(1 << 20))
    except OSError:
        os.close(file)


def strike_when_possible(strike: Strike, disk: Path, store: str, note: Path) -> None:
    """Strike and leave a note, or do neither as long as there is no target."""
    from mobileclip2.store.user_cache import cache_folder

    match strike.what:
        case "flipped artifact":
            struck = flip_artifact(store, strike.size)
        case "flipped checkpoint":
            struck = flip_checkpoint(store, strike.size)
        case "flipped S3 cache":
            struck = flip_one(_files(cache_folder() / "s3"), strike.size)
        case "flipped feature cache":
            struck = flip_one(_files(cache_folder() / "features"), strike.size)
        case "flipped stat cache":
            struck = flip_one(cache_folder().glob("hashes.sqlite*"), strike.size)
        case "swapped source":
            struck = swap_source(disk, strike.size)
        case "lost lease" | "stolen lease":
            struck = take_lease(store, strike.size, lost=strike.what == "lost lease")
        case _:
            struck = True
    if struck:
        note.touch()
        if strike.what == "flipped checkpoint":
            os.kill(os.getpid(), signal.SIGKILL)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(".partial"))


def flipped(data: bytes, which: int) -> bytes:
    position = which % len(data)
    return data[:position] + bytes([data[position] ^ 1 << which % 8]) + data[position + 1 :]


def flip(path: Path, which: int) -> None:
    """Flip a bit and keep the size and times of the file, as a failing disk does."""
    status = path.stat()
    with path.open("r+b") as file:
        position = which % status.st_size
        file.seek(position)
        byte = file.read(1)
        file.seek(position)
        file.write(flipped(byte, which))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def flip_one(files: Iterable[Path], which: int) -> bool:
    some = sorted(path for path in files if path.stat().st_size)
    if some:
        flip(some[which % len(some)], which)
    return bool(some)


def flip_key(store: str, keys: list[str], which: int) -> bool:
    """Flip a bit of one of these stored files. An object keeps the hash in its metadata."""
    from mobileclip2.store import LocalStorage, open_storage

    storage = open_storage(store)
    if not keys:
        return False
    key = keys[which % len(keys)]
    if isinstance(storage, LocalStorage):
        flip(storage.root / key, which)
    else:
        where = {"Bucket": storage.bucket, "Key": storage.prefix + key}
        metadata = storage._retry(key, lambda client: client.head_object(**where))["Metadata"]
        body = flipped(storage.read(key), which)
        storage._retry(key, lambda client: client.put_object(**where, Body=body, Metadata=metadata))
    return True


def flip_artifact(store: str, which: int) -> bool:
    """Flip a bit in a file of a finished artifact, except its manifest and lineage, where not every bit matters."""
    from mobileclip2.store import open_storage

    sizes = {key: size for key, size in open_storage(store).list("") if not key.startswith(".")}
    closed = {key.removesuffix("manifest.json") for key in sizes if key.endswith("/manifest.json")}
    exempt = ("/manifest.json", "/lineage.json")
    keys = [key for key in sizes if not key.endswith(exempt) and key.rpartition("/")[0] + "/" in closed and sizes[key]]
    return flip_key(store, sorted(keys), which)


def flip_checkpoint(store: str, which: int) -> bool:
    """Flip a bit in the newest checkpoint of a training."""
    from mobileclip2.store import LocalStorage, open_storage

    storage = open_storage(store)
    keys = [key for key, _ in storage.list(".scratch/") if key.rpartition("/")[2].startswith("resume-")]
    if isinstance(storage, LocalStorage):
        newest = sorted(keys, key=lambda key: (storage.root / key).stat().st_mtime_ns)[-1:]
    else:
        newest = sorted(keys, key=lambda key: storage.read_version(key).age)[:1]
    return flip_key(store, newest, which)


def swap_source(disk: Path, which: int) -> bool:
    """Replace one tar of the sources with another one until :func:`put_sources_back`."""
    tars = sorted((disk / "shards").glob("*.tar"))
    tar, other = tars[which % len(tars)], tars[(which + 1) % len(tars)]
    os.rename(tar, tar.with_suffix(f".{SWAPPED}"))  # noqa: PTH104  (Path.replace counts moments)
    try:
        tar.write_bytes(other.read_bytes())
    except OSError:  # the disk is full
        put_sources_back(disk)
        return False
    return True


def put_sources_back(disk: Path) -> None:
    for path in (disk / "shards").glob(f"*.{SWAPPED}"):
        os.rename(path, path.with_suffix(".tar"))  # noqa: PTH104


def take_lease(store: str, which: int, *, lost: bool) -> bool:
    """Delete a lease, or replace it with the lease of a process that soon ends."""
    from mobileclip2.store import LocalStorage, open_storage
    from mobileclip2.store.lease import FOLDER

    storage = open_storage(store)
    keys = sorted(key for key, _ in storage.list(f"{FOLDER}/"))
    if not keys:
        return False
    key = keys[which % len(keys)]
    thief = json.dumps({"holder": "thief", "name": "stolen", "renewed": 0.0, "payload": "uses nothing"}).encode()
    if not isinstance(storage, LocalStorage):
        if lost:
            storage.delete(key)
        else:
            where = {"Bucket": storage.bucket, "Key": storage.prefix + key}
            storage._retry(key, lambda client: client.put_object(**where, Body=thief))
        return True
    (storage.root / key).unlink(missing_ok=True)
    if not lost:
        (storage.root / key).write_bytes(thief)
    return True


def damage(store: str, which: int, *, truncate: bool) -> None:
    """Cut a stored file in half in place, or delete it, as a careless user does."""
    from mobileclip2.store import LocalStorage, open_storage

    storage = open_storage(store)
    # a lineage is not part of an output, and its loss is only detected when it is read
    there = {key for key, _ in storage.list("") if not key.startswith(".") and not key.endswith("/lineage.json")}
    closed = {key.removesuffix("manifest.json") for key in there if key.endswith("manifest.json")}
    # in an unfinished group, only a '.skipped.' file records that a shard had skipped samples
    keys = [key for key in sorted(there) if ".skipped." not in key or key.rpartition("/")[0] + "/" in closed]
    if not keys:
        return
    key = keys[which % len(keys)]
    if not truncate:
        storage.delete(key)
    elif isinstance(storage, LocalStorage):
        os.truncate(storage.root / key, (storage.root / key).stat().st_size // 2)
    else:
        data = storage.read(key)
        storage.client.put_object(Bucket=storage.bucket, Key=storage.prefix + key, Body=data[: len(data) // 2])


class Clock:
    """The clock of this process, and the times of the files that it stores."""

    def __init__(self) -> None:
        self.seconds = 0

    def step(self, seconds: int) -> None:
        import botocore.auth

        real, real_date = time.time, botocore.auth.get_current_datetime
        self.seconds = seconds
        time.time = lambda: real() + seconds
        botocore.auth.get_current_datetime = lambda *some, **more: real_date(*some, **more) + timedelta(seconds=seconds)


def _next(folder: Path) -> int:
    """Return 1 in the first process that calls this function, 2 in the second, and so on."""
    number = 1
    while True:
        try:
            os.close(os.open(folder / f"process-{number}", os.O_CREAT | os.O_EXCL))
        except FileExistsError:
            number += 1
        else:
            return number


if ARMED in os.environ:
    arm(**json.loads(os.environ[ARMED]))

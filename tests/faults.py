"""What befalls a process of the tests from inside of it.

Moments are counted, not timed: a process passes one just before each file that it stores gets its name, and one just after. So
the same strike meets the same work, however fast the machine is.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal, TypeVar

from mobileclip2.executors.commands import LOGS

T = TypeVar("T")

What = Literal["kill", "full disk", "truncate", "vanish", "clock"]
BALLAST = "ballast"
ARMED = "TESTS_FAULTS"
"""environment variable with the arguments of :func:`arm`"""


@dataclass(frozen=True)
class Strike:
    """Something that happens to a process, once."""

    name: str
    who: Literal["run", "worker", "pod"]
    """a worker is a process of a run's pool"""
    what: What
    moment: int
    """counted from 1, by each process for itself"""
    process: int = 1
    """the n-th worker or pod of a run, in the order of their first files"""
    size: int = 0
    """which stored file, for damage; seconds, for a clock"""


def gate(strikes: list[Strike], folder: Path, store: str) -> dict[str, Any]:
    """What :func:`arm` takes, as JSON."""
    return {"strikes": [asdict(strike) for strike in strikes], "folder": str(folder), "store": store}


def arm(strikes: list[dict[str, Any]], folder: str, store: str, owner: int = 0) -> None:
    """Makes this process and its workers meet its strikes; ``folder`` is where those that struck are noted.

    The file system of ``folder`` is the one that fills up, by a file beside it. ``owner`` is the process that runs; the server
    that forks its workers imports this module, which arms it.
    """
    from mobileclip2.store.s3 import S3Storage

    hasten()
    waiting = [Strike(**strike) for strike in strikes]
    owner = owner or os.getpid()
    os.environ[ARMED] = json.dumps({"strikes": strikes, "folder": folder, "store": store, "owner": owner})
    passed: dict[int, int] = {}
    number: dict[int, int] = {}
    clock = Clock()

    def moment() -> None:
        process = os.getpid()
        if process not in passed:
            passed[process] = 0
            number[process] = _next(Path(folder)) if process != owner or (waiting and waiting[0].who == "pod") else 1
        passed[process] += 1
        for strike in waiting:
            here = strike.who == "pod" or (strike.who == "run") == (process == owner)
            if here and (strike.process, strike.moment) == (number[process], passed[process]):
                (Path(folder) / strike.name).touch()
                meet(strike, Path(folder).parent, store, clock)

    def around(act: Callable[..., T]) -> Callable[..., T]:
        def acting(*some: Any, **more: Any) -> T:
            if any(f"{LOGS}/" in str(each) for each in some):  # of a process that only looks after a pod's
                return act(*some, **more)
            moment()
            done = act(*some, **more)
            moment()
            return done

        return acting

    replace = Path.replace

    def named(self: Path, target: Path) -> Path:
        path = replace(self, target)
        if clock.seconds:
            os.utime(path, (time.time(), time.time()))
        return path

    Path.replace = around(named)  # type: ignore[method-assign]
    S3Storage._put = around(S3Storage._put)  # type: ignore[method-assign]


def hasten() -> None:
    """Shorten what is meant for real networks and clusters. All processes that share a store must agree on a lease."""
    import botocore.retries.standard

    from mobileclip2.store import lease, s3

    s3.READ_SECONDS, s3.FIRST_PAUSE, s3.LONGEST_PAUSE, s3.PATIENCE_SECONDS = 0.5, 0.02, 0.5, 20.0
    lease.POLL_SECONDS, lease.RENEW_SECONDS, lease.VOID_SECONDS = 0.05, 0.5, 6.0
    botocore.retries.standard.ExponentialBackoff.delay_amount = lambda *_: 0.01


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
    """Takes all that is left of a file system."""
    file = os.open(path, os.O_WRONLY | os.O_CREAT)
    try:
        while True:
            os.write(file, bytes(1 << 20))
    except OSError:
        os.close(file)


def damage(store: str, which: int, *, truncate: bool) -> None:
    """Cuts a stored file in half, or deletes it, as a careless hand does: not by way of a new file."""
    from mobileclip2.store import LocalStorage, open_storage

    storage = open_storage(store)
    # a lineage is no part of an output, and is not missed before somebody asks for it
    there = {key for key, _ in storage.list("") if not key.startswith(".") and not key.endswith("/lineage.json")}
    closed = {key.removesuffix("manifest.json") for key in there if key.endswith("manifest.json")}
    # that a shard of an unfinished group had skipped samples is known by such a file alone
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
    """The time of day as this process sees it, and the time of the files that it stores."""

    def __init__(self) -> None:
        self.seconds = 0

    def step(self, seconds: int) -> None:
        import botocore.auth

        real, real_date = time.time, botocore.auth.get_current_datetime
        self.seconds = seconds
        time.time = lambda: real() + seconds
        botocore.auth.get_current_datetime = lambda *some, **more: real_date(*some, **more) + timedelta(seconds=seconds)


def _next(folder: Path) -> int:
    """1 for the first process that asks, 2 for the second, ..."""
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

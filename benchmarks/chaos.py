"""Random faults over the whole graph of the test profile. The final store must equal that of an undisturbed run.

A seed decides where the graph is computed and stored, and which faults happen: processes are killed, the disk fills up,
stored files are cut or deleted, the bucket and the API server fail in all ways, the clock jumps. Bits flip in
artifacts, checkpoints and caches, sources are replaced for a while, leases are lost and stolen, and gc deletes at the
same time. A run that ends with an error is started again, as a user would do. The last run has no faults and hashes
every stored file, because readers may not have read every flipped bit. Faults strike at counted files and requests, so
a seed gives the same schedule anywhere. Only the order of several pods depends on the machine.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import shutil
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast, get_args

import boto3
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.gc import delete
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.store import S3Storage, Storage, open_storage
from tests import run
from tests.cluster import FakeCluster
from tests.faults import BALLAST, KILLS, Later, Strike, What, gate, put_sources_back
from tests.kubelet import Kubelet
from tests.s3 import Fault, FaultyS3
from tests.small_disk import small_disk

Who = Literal["run", "worker", "pod"]
Where = Literal["one process", "two workers", "cluster"]
Store = Literal["disk", "bucket"]

LIVES = 4
"""Number of runs with faults. One run without faults follows."""
MOMENTS = {"one process": 120, "two workers": 50, "cluster": 40}
"""A strike on a run comes within this many moments: two for each file that the run stores.

A strike on a worker or pod comes within SHARE moments.
"""
SHARE = 4
PROCESSES = 16
"""A strike on a worker or pod hits one of this many processes."""
REQUESTS = {"S3": 300, "API": 200}
"""A server fault starts within this many requests and lasts for up to BURST requests."""
BURST = 4
SILENT_SECONDS = 240
"""A run without log output for this many seconds counts as hung."""
DISK_MEGABYTES = 256
ENDS: tuple[What, ...] = ("kill", "full disk", "truncate", "vanish")
LATER: tuple[What, ...] = get_args(Later)
"""Each life has one of these. It is drawn from another random sequence, so that seeds keep their other faults."""
ORPHAN = "raw_shards/0123456789abcdef/g00/old.parquet"
"""An output that no profile needs. gc deletes it."""
S3_FAULTS: tuple[Fault, ...] = tuple(fault for fault in get_args(Fault) if fault != "slow")
API_FAULTS = ("500", "503", "429", "lost")
STAGES = (
    "augmentations",
    "captioner",
    "caption_corpus",
    "evaluation",
    "raw_shards",
    "reinforced_dataset",
    "student",
    "synthetic_captions",
    "teacher",
    "teacher_embeddings",
)
MODULES = (
    "boto3",
    "tests.warm",
    "tests.run",
    "tests.collect",
    "mobileclip2.executors.kubernetes",
    *(f"mobileclip2.stages.{stage}" for stage in STAGES),
)


@dataclass(frozen=True)
class Outage:
    """A server fault that starts at the n-th request. Requests are counted in each life."""

    server: Literal["S3", "API"]
    what: str
    request: int
    lasts: int


@dataclass(frozen=True)
class Schedule:
    """All faults of all lives, as a function of the seed."""

    seed: int
    where: Where
    store: Store
    lives: tuple[tuple[Strike | Outage, ...], ...]

    @classmethod
    def of(cls, seed: int) -> Schedule:
        draw, draw_since = random.Random(seed), random.Random(f"since {seed}")
        where: Where = draw.choice(get_args(Where))
        store: Store = draw.choice(get_args(Store))
        lives = []
        for life in range(LIVES):
            events: list[Strike | Outage] = [_strike(draw, where, draw.choice(ENDS), f"{life}-ends")]
            if draw.random() < 0.5:
                events.append(_strike(draw, where, "clock", f"{life}-clock"))
            if store == "bucket":
                events += [_outage(draw, "S3", S3_FAULTS) for _ in range(3)]
            if where == "cluster":
                events.append(_strike(draw, where, "kill", f"{life}-pod", who="pod"))
                events += [_outage(draw, "API", API_FAULTS) for _ in range(2)]
            events.append(_later_strike(draw_since, where, store, f"{life}-since"))
            lives.append(tuple(events))
        return cls(seed, where, store, tuple(lives))


def _strike(draw: random.Random, where: Where, what: What, name: str, who: Who | None = None) -> Strike:
    others: dict[Where, Who] = {"one process": "run", "two workers": "worker", "cluster": "pod"}
    either: list[Who] = ["run", others[where]]
    struck: Who = draw.choice(either) if who is None else who
    size = draw.randrange(1, 10_000)
    if what == "clock":
        size = draw.choice([-1, 1]) * draw.choice([5, 600, 86_400, 400 * 86_400])
    moment = draw.randint(1, MOMENTS[where] if struck == "run" else SHARE)
    process = draw.randint(1, PROCESSES) if struck != "run" else 1
    return Strike(name, struck, what, moment, process, size)


def _later_strike(draw: random.Random, where: Where, store: Store, name: str) -> Strike:
    what = draw.choice([what for what in LATER if store == "bucket" or what != "flipped S3 cache"])
    # on a cluster the pods have the checkpoints and these caches; any pod may be the one that trains
    anywhere = where == "cluster" and what in {"flipped checkpoint", "flipped S3 cache", "flipped feature cache"}
    moment = draw.randint(1, SHARE if anywhere else MOMENTS[where] // 2)
    size, lasts = draw.randrange(1, 1_000_000), draw.randint(1, 6)
    return Strike(name, "pod" if anywhere else "run", what, moment, 0 if anywhere else 1, size, lasts)


def _outage(draw: random.Random, server: Literal["S3", "API"], faults: tuple[str, ...]) -> Outage:
    what = draw.choice(faults)
    # expired credentials stay expired until a user renews them
    lasts = 10_000 if what == "expired" else draw.randint(1, BURST)
    return Outage(server, what, draw.randint(1, REQUESTS[server]), lasts)


def arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--seeds", type=int, default=10, help="how many")
    parser.add_argument("--first", type=int, default=0, help="the first of them")


def measure(seeds: int = 10, first: int = 0) -> dict[str, Any]:
    with World() as world:
        rows = []
        for seed in range(first, first + seeds):
            row = world.try_out(Schedule.of(seed))
            print(_line(row), flush=True)
            rows.append(row)
        return {"tmpfs": world.small, "files": len(world.expected), "rows": rows}


def holds(numbers: dict[str, Any]) -> bool:
    return not any(row["wrong"] for row in numbers["rows"])


def show(numbers: dict[str, Any]) -> str:
    rows = numbers["rows"]
    struck = Counter(name for row in rows for name in row["struck"])
    failed = [row["seed"] for row in rows if row["wrong"]]
    seconds = sorted(row["seconds"] for row in rows)
    lines = [
        f"{len(rows)} seeds, {sum(row['lives'] for row in rows)} runs, {sum(struck.values())} faults; "
        f"{len(rows) - len(failed)} ended with the {numbers['files']} files of an undisturbed run, byte for byte",
        f"seconds a seed: median {seconds[len(seconds) // 2]:.0f}, most {seconds[-1]:.0f}",
        "struck: " + ", ".join(f"{name} {count}" for name, count in sorted(struck.items())),
    ]
    if not numbers["tmpfs"]:
        lines.append("full disks were left out: this user may not mount a small one")
    lines += [f"FAILED: python -m benchmarks chaos --first {seed} --seeds 1" for seed in failed]
    return "\n".join(lines)


def _line(row: dict[str, Any]) -> str:
    struck = ", ".join(f"{name} {count}" for name, count in sorted(Counter(row["struck"]).items())) or "nothing"
    line = (
        f"seed {row['seed']:4}  {row['where']:11}  {row['store']:6}  {row['lives']} runs  {row['seconds']:5.1f} s  "
        f"{'NOT equal' if row['wrong'] else 'equal'}  after {struck}"
    )
    return "\n".join([line, *(f"    {each}" for each in [*row["wrong"], *(row["schedule"] if row["wrong"] else [])])])


class World:
    """A small disk, a bucket, a cluster, a process that forks runs, and the files of an undisturbed run."""

    def __enter__(self) -> World:
        from tests.tiny import make_tiny  # loads torch, which a schedule does not need

        self.stack = ExitStack()
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        self.small = self.stack.enter_context(small_disk(self.folder / "disk", DISK_MEGABYTES))
        self.statuses: dict[str, int] = {}
        self.ended = threading.Condition()
        self.kubelet = Kubelet(self._run_ended, MODULES)
        self.stack.callback(self.kubelet.close)
        self.s3 = self.stack.enter_context(FaultyS3())
        self.s3.create_bucket("chaos")
        self.cluster = self.stack.enter_context(FakeCluster(self.folder / "cluster", {"one": 8}))
        self.template = make_tiny(self.folder / "template").parent
        profile = self._prepare(Schedule(-1, "one process", "disk", ()))
        self._live(profile, "undisturbed", {})
        self.expected = self._stored(profile)
        shutil.rmtree(profile.parent)
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def try_out(self, schedule: Schedule) -> dict[str, Any]:
        started = time.monotonic()
        wrong: list[str] = []
        struck: list[str] = []
        profile = self._prepare(schedule)
        for number, life in enumerate([*schedule.lives, ()]):
            wrong += self._meet(schedule, profile, f"seed-{schedule.seed}-{number}", life, struck)
            put_sources_back(profile.parent)
            if wrong:
                break
        lives = number + 1
        stored = self._stored(profile)
        if not wrong:
            wrong = [f"{key}: {_difference(self.expected.get(key), stored.get(key))}" for key in sorted(
                self.expected.keys() | stored.keys()
            ) if self.expected.get(key) != stored.get(key)]  # fmt: skip
        shutil.rmtree(profile.parent)
        return {
            "seed": schedule.seed,
            "where": schedule.where,
            "store": schedule.store,
            "lives": lives,
            "struck": struck,
            "seconds": round(time.monotonic() - started, 1),
            "wrong": wrong[:20],
            "schedule": [str(event) for life in schedule.lives for event in life],
        }

    def _prepare(self, schedule: Schedule) -> Path:
        """Return the profile on the small disk, with its data, compute settings and store set by the schedule."""
        place = self.folder / "disk" / str(schedule.seed)
        profile = Path(shutil.copytree(self.template, place)) / "tiny.yaml"
        values = yaml.safe_load(profile.read_text())
        if schedule.store == "bucket":
            values["store"] = f"s3://chaos/{schedule.seed}"
        if schedule.where == "two workers":
            values["compute"] = {"processes": 2}
        if schedule.where == "cluster":
            stages = ("captioner", "synthetic_captions", "teacher", "teacher_embeddings", "student", "evaluation")
            env = {**self.s3.env, "TMPDIR": str(place / "tmp")}
            values["compute"] = {
                "kubernetes": {
                    "image": "tests",
                    "env": env,
                    "stages": {stage: {"pods": 4, "gpus": 0} for stage in stages},
                }
            }
            for stage in ("captioner", "teacher", "student", "evaluation"):
                values["compute"]["kubernetes"]["stages"][stage]["pods"] = 1
        profile.write_text(yaml.safe_dump(values, sort_keys=False))
        for name in ("tmp", "notes"):
            (place / name).mkdir()
        if any(isinstance(event, Strike) and event.what == "gc" for life in schedule.lives for event in life):
            self._store(profile).write(ORPHAN, b"old")
        return profile

    def _meet(
        self, schedule: Schedule, profile: Path, name: str, life: tuple[Strike | Outage, ...], struck: list[str]
    ) -> list[str]:
        """Run one life. Add its faults to ``struck`` and return the problems of its end."""
        place = profile.parent
        (place / BALLAST).unlink(missing_ok=True)
        shutil.rmtree(place / "notes")
        (place / "notes").mkdir()
        strikes = [each for each in life if isinstance(each, Strike) and (self.small or each.what != "full disk")]
        outages = [each for each in life if isinstance(each, Outage)]
        met: list[str] = []
        self.s3.reset(lambda request: cast(Fault | None, _of(outages, "S3", request.number, met)))
        requests = Counter[str]()
        verdicts: dict[int, str | None] = {}

        def api(method: str, path: str) -> int | None:
            requests["API"] += 1
            verdicts[threading.get_ident()] = what = _of(outages, "API", requests["API"], met)
            return int(what) if what and what != "lost" else None

        def lose(method: str, path: str) -> int | None:
            return 500 if verdicts.get(threading.get_ident()) == "lost" else None

        store = _store_url(profile)
        own = [each for each in strikes if each.who != "pod"]
        in_pods = [each for each in strikes if each.who == "pod"]
        self.cluster.faults.answer, self.cluster.faults.lose = api, lose
        self.cluster.faults.gate = lambda pod: gate(in_pods, place / "notes", store)
        collect = next((place / "notes" / each.name for each in own if each.what == "gc"), None)
        status, log = self._live(profile, name, gate(own, place / "notes", store), collect, every_byte=not life)
        notes = {path.name for path in (place / "notes").iterdir()}
        struck += [f"{each.what} ({each.who})" for each in strikes if each.name in notes]
        struck += [f"{name.partition(' ')[0]} {name.partition(' ')[2]}" for name in met]
        text = log.read_text(errors="replace")
        if status not in {0, run.REFUSED, 137}:
            return [
                f"{name}: ended with {status}, {'hung' if status == HUNG else 'which no fault explains'}",
                *text.splitlines()[-15:],
            ]
        if status == 137 and not any(each.who == "run" and each.what in KILLS and each.name in notes for each in own):
            return [f"{name}: killed by nobody"]
        if not life and status:
            return [f"{name}: failed although nothing happened", *text.splitlines()[-15:]]
        pods = [self.cluster.folder / f"{pod['metadata']['name']}.log" for pod in self.cluster.everything]
        self.cluster.everything.clear()
        for pod in pods:
            said = pod.read_text(errors="replace") if pod.exists() else ""
            if "Traceback" in said:
                return [f"{name}: a pod ended with a traceback", *said.splitlines()[-15:]]
        return []

    def _live(
        self,
        profile: Path,
        name: str,
        strikes: dict[str, Any],
        collect: Path | None = None,
        *,
        every_byte: bool = False,
    ) -> tuple[int, Path]:
        """Return the exit status and the log of a run. A gc starts next to it when the note ``collect`` appears."""
        place = profile.parent
        env = {
            **self.s3.env,
            "PATH": "/usr/bin:/bin",
            "HOME": str(place),
            "TMPDIR": str(place / "tmp"),
            "MOBILECLIP2_CACHE": str(place / "cache"),
            "OMP_NUM_THREADS": "1",
            # trained weights depend on the instruction set; pods inherit this limit
            **{name: value for name, value in os.environ.items() if name == "ONEDNN_MAX_CPU_ISA"},
            "HF_HUB_OFFLINE": "1",
            "KUBECONFIG": str(self.cluster.kubeconfig),
        }
        log = self.folder / f"{name}.log"
        nothing = gate([], place / "notes", "")
        more = ["--every-byte"] if every_byte else []
        self.kubelet.start(name, ["python", "-m", "tests.run", str(profile), *more], env, log, strikes or nothing)
        logged, deadline, gc = -1, 0.0, f"{name}-gc"
        with self.ended:
            running = {name}
            while running - self.statuses.keys():
                self.ended.wait(0.1)
                if collect is not None and collect.exists() and gc not in running:
                    running.add(gc)
                    self.kubelet.start(gc, ["python", "-m", "tests.collect", str(profile)], env, log, nothing)
                size = log.stat().st_size if log.exists() else 0
                if size != logged:
                    logged, deadline = size, time.monotonic() + SILENT_SECONDS
                if time.monotonic() > deadline:
                    for each in running - self.statuses.keys():
                        self.kubelet.signal(each, 9)
                    return HUNG, log
            status = self.statuses.pop(name)
            collected = self.statuses.pop(gc, 0)
            return (collected if collected not in {0, run.REFUSED} else status), log

    def _run_ended(self, name: str, status: int) -> None:
        with self.ended:
            self.statuses[name] = status
            self.ended.notify_all()

    def _store(self, profile: Path) -> Storage:
        storage = open_storage(_store_url(profile))
        if isinstance(storage, S3Storage):
            storage.client = self._s3_client()
        return storage

    def _s3_client(self) -> Any:
        return boto3.session.Session("test", "test").client(
            "s3", endpoint_url="http://{}:{}".format(*self.s3.behind), region_name="us-east-1"
        )

    def _stored(self, profile: Path) -> dict[str, str]:
        """Return the MD5 of all files in the folders of outputs, including unfinished files.

        A kill just after a manifest can leave hashes and temporary files next to it. gc deletes them first.
        """
        store = _store_url(profile)
        if not store.startswith("s3://"):
            delete(Pipeline(load(profile)), [])
            root = Path(store)
            files = [path for path in root.rglob("*") if path.is_file()]
            found = {path.relative_to(root).as_posix(): path for path in files}
            return {
                key: hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
                for key, path in found.items()
                if not key.startswith(".") and key != ORPHAN
            }
        prefix = store.removeprefix("s3://chaos/") + "/"
        pages = self._s3_client().get_paginator("list_objects_v2").paginate(Bucket="chaos", Prefix=prefix)
        found_etags = {
            item["Key"].removeprefix(prefix): item["ETag"].strip('"')
            for page in pages
            for item in page.get("Contents", [])
        }
        return {key: etag for key, etag in found_etags.items() if not key.startswith(".") and key != ORPHAN}


def _store_url(profile: Path) -> str:
    store: str = yaml.safe_load(profile.read_text())["store"]
    return store if store.startswith("s3://") else str(profile.parent / store)


HUNG = -1


def _of(outages: list[Outage], server: str, request: int, met: list[str]) -> str | None:
    for outage in outages:
        if outage.server == server and outage.request <= request < outage.request + outage.lasts:
            if request == outage.request:
                met.append(f"{server} {outage.what}")
            return outage.what
    return None


def _difference(expected: str | None, stored: str | None) -> str:
    if stored is None:
        return "is not there"
    return "other bytes" if expected else "left behind"

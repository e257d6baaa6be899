"""How the speed of a group scales with the number of pods, and a projection to 300,000 shards on 512 GPUs.

The benchmark measures a group on the fake cluster with 1, 2 and 4 pods in turn. The pods wait at every shard instead of
computing. It also measures the time of a worker's imports, the time to load a model, and the requests of a Job and of a
chunk. From these numbers and :class:`Assumed`, it simulates all groups of one asset at several chunk sizes, with their
Jobs in the order of Kubernetes.
"""

from __future__ import annotations

import heapq
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.task import TaskSpec, run_shard_task
from mobileclip2.executors.chunks import CHUNK_SECONDS, count_chunks
from mobileclip2.executors.kubernetes import POLL_SECONDS, KubernetesExecutor
from mobileclip2.progress import silent
from mobileclip2.store import LocalStorage
from tests.cluster import FakeCluster, Object
from tests.pipelines.small import edited, one_of_each
from tests.tiny import make_tiny

PODS, REPEATS = (1, 2, 4), 2
SHARDS, SAMPLES, CHUNKS, WAIT_SECONDS = 24, 4, 4, 7.5
"""Chunks take 45 seconds. The start of a pod is a larger share of them than of a real chunk of ten minutes."""
VIEWS = 2
"""Views of each shard. Each view is a slice with one file per shard."""
SEEDS = 3
STAGE = "augmentations"


@dataclass(frozen=True)
class Assumed:
    """Values that a machine without GPUs cannot measure."""

    gpus: int = 512
    shards: int = 300_000
    groups: int = 64
    runs: int = 32
    """Concurrent groups, as allowed by k8s/dagster.yaml."""
    pods: int = 64
    """Concurrent pods of the Job of a group."""
    samples_a_shard: int = 6667
    images_a_second: float = 500.0
    """Images per second of one GPU, with two views per image. Eight cores decode them."""
    captions_a_second: float = 400.0
    """Captions per second of one GPU, with five captions per image."""
    pod_seconds: float = 10.0
    """Seconds from a free GPU to the start of its container. The container image is on the node already."""
    fetch_seconds: float = 4.0
    """Seconds to fetch 1.7 GB of weights."""
    model_scale: float = 2.9
    """Ratio of the parameters of ViT-L/14 to those of ViT-B/16, the model that is loaded here."""
    evictions_an_hour: float = 0.05
    """Evictions per hour of one pod. A spot node lives 20 hours."""
    spread: float = 0.1
    """Spread of the time of a shard between chunks, as the standard deviation of its logarithm."""


def measure() -> dict[str, Any]:
    assumed = Assumed()
    with tempfile.TemporaryDirectory(prefix="scaling-") as name, cache(Path(name) / "cache"):
        folder = Path(name)
        seconds, requests = groups_that_wait(folder)
        a_shard, a_chunk = storage_requests(folder / "requests")
        imports, model = import_seconds(), load_seconds(folder)
    start = assumed.pod_seconds + assumed.fetch_seconds + imports + assumed.model_scale * model
    stages = {
        "image embeddings of one teacher": assumed.samples_a_shard / assumed.images_a_second,
        "captions of one captioner": assumed.samples_a_shard * 5 / assumed.captions_a_second,
    }
    return {
        "cores": os.cpu_count(),
        "pods": seconds,
        "job requests": requests,
        "requests a shard": a_shard,
        "requests a chunk": a_chunk,
        "import seconds": imports,
        "model seconds": model,
        "start seconds": start,
        "assumed": asdict(assumed),
        "stages": {name: projected(assumed, shard, start, a_shard, a_chunk) for name, shard in stages.items()},
    }


@contextmanager
def cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("MOBILECLIP2_CACHE")
    os.environ["MOBILECLIP2_CACHE"] = str(folder)
    try:
        yield
    finally:
        os.environ.pop("MOBILECLIP2_CACHE")
        if before is not None:
            os.environ["MOBILECLIP2_CACHE"] = before


def groups_that_wait(folder: Path) -> tuple[dict[int, list[float]], dict[str, float]]:
    """Return the seconds of a group by number of pods, and the requests of its run to the API server."""
    profile = make_tiny(folder / "tiny", shards=SHARDS, samples=SAMPLES)
    edited(profile, one_of_each)
    Pipeline(load(profile)).materialize("raw_shards", "g00")
    text = profile.read_text()
    seconds: dict[int, list[float]] = {pods: [] for pods in PODS}
    asked: Counter[str] = Counter()
    with FakeCluster(folder / "cluster", {"node": max(PODS)}) as cluster:
        os.environ["KUBECONFIG"] = str(cluster.kubeconfig)
        for repeat in range(-1, REPEATS):  # the first repeat is a warm-up that loads the imports of the pods
            for pods in PODS if repeat >= 0 else PODS[-1:]:
                wait = WAIT_SECONDS / VIEWS if repeat >= 0 else 0.0
                writes = {"writes": str(folder / "writes"), "wait": wait}
                cluster.faults.gate = _held(writes)
                # a stated rate, so that the number of chunks does not depend on the number of pods
                rate = SAMPLES * SHARDS * VIEWS / (CHUNKS * CHUNK_SECONDS)
                settings = {"image": "tests", "stages": {STAGE: {"pods": pods, "gpus": 1}}}
                profile.write_text(f"{text}\nrates: {{{STAGE}: {rate}}}\ncompute: {{kubernetes: {settings}}}\n")
                loaded = load(profile)
                assert loaded.compute.kubernetes
                compute = KubernetesExecutor(loaded.compute.kubernetes)
                compute.poll = 0.1
                pipeline = Pipeline(loaded, compute)
                pipeline.storage.delete_folder(f"{STAGE}/")
                (pipeline.scratch / "times" / f"{STAGE}.jsonl").unlink(missing_ok=True)
                cluster.requests.clear()
                cluster.everything.clear()
                started = time.perf_counter()
                pipeline.materialize(STAGE, "g00")
                assert len(cluster.everything) == CHUNKS
                if repeat >= 0:
                    seconds[pods].append(time.perf_counter() - started)
                    asked.update(request.partition(" ")[0] for request in cluster.requests)
        del os.environ["KUBECONFIG"]
    runs = REPEATS * len(PODS)
    requests = {"once": (asked["POST"] + asked["DELETE"]) / runs + 1, "a poll": 1.0}
    assert asked.keys() == {"POST", "GET", "DELETE"} and asked["GET"] > runs
    return seconds, requests


class Counting(LocalStorage):
    """A local folder that counts the calls that would be requests to an object store."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.count = 0

    def __getattribute__(self, name: str) -> Any:
        if name in {"exists", "look", "read", "write", "put", "fetch"}:
            self.count += 1
        return super().__getattribute__(name)


def _held(writes: dict[str, Any]) -> Callable[[Object], dict[str, Any]]:
    return lambda pod: writes


def storage_requests(folder: Path) -> tuple[float, float]:
    """Return the requests per shard of image embeddings, including the shard, and per chunk without its shards."""
    profile = make_tiny(folder, shards=8, samples=SAMPLES)
    pipeline = edited(profile, one_of_each)
    for key, group in (("raw_shards", "g00"), ("augmentations", "g00"), ("teacher/wide", None)):
        pipeline.materialize(key, group)
    (asset,) = [asset for asset in pipeline.graph.values() if asset.key == "teacher_embeddings/wide/image"]
    counts = []
    for of in (8, 4, 2):  # chunks of 1, 2 and 4 shards; the first one is a warm-up
        storage = Counting(Path(pipeline.storage.url))
        works = [pipeline.task_for(asset, part, "g00") for part in asset.slices_of("g00").values()]
        order = ordered(pipeline, [work for work in works if work])
        order.write(storage)
        storage.count = 0
        run_shard_task(storage, order.key, 0, of, silent)
        counts.append(storage.count)
        pipeline.storage.delete_folder(f"{asset.key}/")
    each = (counts[2] - counts[1]) / 2
    return each + 1, counts[1] - 2 * each


def ordered(pipeline: Pipeline, parts: list[Any]) -> TaskSpec:
    from mobileclip2.engine.pipeline import TaskBatch

    return TaskSpec.of(TaskBatch(pipeline, parts[0].asset, "g00", parts, silent))


def import_seconds() -> float:
    """Return the CPU seconds that a worker spends on imports before it reads its task spec."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    imports = "import mobileclip2.executors.worker, mobileclip2.stages.teacher_embeddings"
    subprocess.run([sys.executable, "-c", imports], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def load_seconds(folder: Path) -> float:
    """Return the CPU seconds to build ViT-B/16 and load its weights, the second of two times."""
    from safetensors.torch import load_file, save_file

    from mobileclip2.models.build import from_config

    config = {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "patch_size": 16, "width": 768, "layers": 12},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    }
    model = from_config({"model_cfg": config}).model
    save_file(model.state_dict(), folder / "weights.safetensors")
    started = time.process_time()
    model = from_config({"model_cfg": config}).model
    model.load_state_dict(load_file(folder / "weights.safetensors"))
    return time.process_time() - started


def projected(assumed: Assumed, shard: float, start: float, a_shard: float, a_chunk: float) -> dict[str, Any]:
    """Return the efficiency by chunk size, the size of the code first, and the requests per second at that size."""
    in_group = assumed.shards // assumed.groups
    picked = count_chunks(in_group, shard, assumed.pods)
    efficiency = {}
    for chunks in (picked, picked * 2, math.ceil(picked / 2), math.ceil(picked / 4)):
        runs = [simulate(assumed, shard, start, chunks, seed) for seed in range(SEEDS)]
        efficiency[round(in_group * shard / chunks)] = [share for share, _ in runs]
    _, seconds = simulate(assumed, shard, start, picked, 0)
    listed = math.ceil(in_group / 1000) * 2 / POLL_SECONDS  # pages of 1000 names, for two slices
    work = (assumed.shards * a_shard + assumed.groups * picked * a_chunk) / seconds
    return {
        "chunks": picked * assumed.groups,
        "hours": seconds / 3600,
        "efficiency": efficiency,
        "storage requests a second": {"workers": work, "runs that look": assumed.runs * listed},
        "API requests a second": assumed.runs / POLL_SECONDS + 3 * assumed.groups / seconds,
    }


def simulate(assumed: Assumed, shard: float, start: float, chunks: int, seed: int) -> tuple[float, float]:
    """Return the share of GPU time that computes shards that are kept, and the total seconds.

    A Job has ``pods`` pods at once. When a pod ends, the next pod of the Job joins the end of the queue. An evicted pod
    loses its current shard, and its chunk starts again on the GPU of a new node.
    """
    draw = random.Random(seed)
    in_group = assumed.shards // assumed.groups
    waiting = [
        [len(range(index, in_group, chunks)) for index in reversed(range(chunks))] for _ in range(assumed.groups)
    ]
    left, begun = [chunks] * assumed.groups, 0
    pending: deque[tuple[int, int]] = deque()
    ends: list[tuple[float, int, int]] = []

    def begin() -> None:
        nonlocal begun
        pending.extend((begun, waiting[begun].pop()) for _ in range(min(assumed.pods, chunks)))
        begun += 1

    for _ in range(assumed.runs):
        begin()
    free, now, useful = assumed.gpus, 0.0, 0.0
    while pending or ends:
        while free and pending:
            group, shards = pending.popleft()
            free -= 1
            each = shard * draw.lognormvariate(0.0, assumed.spread)
            lives, needs = draw.expovariate(assumed.evictions_an_hour / 3600), start + shards * each
            done = shards if lives >= needs else max(0, int((lives - start) / each))
            useful += done * each
            heapq.heappush(ends, (now + min(lives, needs), group, shards - done))
        now, group, rest = heapq.heappop(ends)
        free += 1
        if rest:
            pending.append((group, rest))
            continue
        left[group] -= 1
        if waiting[group]:
            pending.append((group, waiting[group].pop()))
        elif not left[group] and begun < assumed.groups:
            begin()
    return useful / (assumed.gpus * now), now


def show(numbers: dict[str, Any]) -> str:
    lines = [
        f"a group of {SHARDS} shards in {CHUNKS} chunks, {WAIT_SECONDS} s of waiting a shard, {REPEATS} repeats in turn, "
        f"{numbers['cores']} cores"
    ]
    base = statistics.median(numbers["pods"][PODS[0]])
    for pods, values in numbers["pods"].items():
        middle = statistics.median(values)
        lines.append(
            f"  {pods} pods  median {middle:5.1f} s  spread {max(values) - min(values):4.1f} s  "
            f"throughput {base / middle:.2f} x, {base / middle / pods:.2f} a pod"
        )
    assumed = numbers["assumed"]
    lines.append(
        f"a pod's start {numbers['start seconds']:.0f} s: {assumed['pod_seconds']:.0f} s until its container runs and "
        f"{assumed['fetch_seconds']:.0f} s for weights (assumed), imports {numbers['import seconds']:.1f} s and a model "
        f"{numbers['model seconds']:.1f} s x {assumed['model_scale']} (measured)"
    )
    lines.append(f"simulated: {', '.join(f'{name} {value:g}' for name, value in assumed.items())}")
    for name, found in numbers["stages"].items():
        lines.append(f"{name}: {found['chunks']:,} chunks, {found['hours']:.1f} h")
        for number, (seconds, values) in enumerate(found["efficiency"].items()):
            middle, spread = statistics.median(values), max(values) - min(values)
            picked = "  (what the code picks)" if number == 0 else ""
            lines.append(f"  chunks of {seconds:5.0f} s  efficiency {middle:.3f}  spread {spread:.3f}{picked}")
        storage = found["storage requests a second"]
        lines.append(
            f"  requests a second: {storage['workers']:.0f} of workers and {storage['runs that look']:.0f} of runs to storage, "
            f"{found['API requests a second']:.1f} to the API server"
        )
    return "\n".join(lines)

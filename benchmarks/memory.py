"""Peak memory of every stage at three sizes: two shards, four times as many, and shards four times as large.

Each stage runs in its own process, forked from one with all modules imported. The growth of the process since its start
counts. The profile is that of the tests, with its small models. The images are JPEGs of up to 512 pixels. A decoded
image takes 0.6 MB, so a stage that holds the decoded images of a shard would grow by 115 MB from the first size to the
third. The training caches for small datasets are switched off.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks._pictures import photograph, write_reinforced
from demo.tars import write_tar
from mobileclip2.config.profile import load
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.stage import load_stage
from mobileclip2.errors import UserError
from mobileclip2.training import data
from tests.tiny import make_tiny

SIZES = {"2 shards of 64": (2, 64), "8 shards of 64": (8, 64), "2 shards of 256": (2, 256)}
BATCH = 16
SOURCES = {"8,000 samples": 4, "128,000 samples": 64}
"""Numbers of shards with 2,000 tiny samples each. Here the number of samples counts."""
SOURCE_ALLOWED = 8.0
"""MB that a source may grow by: half of the memory that a list of the samples' positions would take."""
ALLOWED = 24.0
"""MB that a stage may grow by between two sizes. Allocators and libraries alone vary by about this much."""


def measure() -> dict[str, Any]:
    found: dict[str, dict[str, float]] = {}
    gpu: dict[str, dict[str, float]] = {}
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    data.CACHED_BYTES = data.CACHED_PIXELS = 0
    pipelines = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        for size, (shards, samples) in SIZES.items():
            profile = make_tiny(Path(folder) / size.replace(" ", "-"), shards=shards, samples=samples)
            # a batch is in memory by design; it must be smaller than the smallest shard to distinguish the two
            profile.write_text(f"{profile.read_text()}batch: {BATCH}\n")
            for shard in range(shards):
                write_tar(profile.parent / "shards" / f"{shard:05d}.tar", members(shard, samples))
            graph = Pipeline(load(profile)).graph
            for asset in graph.values():
                load_stage(asset.stage)  # import in this process, before the fork
                queue = pipelines.SimpleQueue()
                process = pipelines.Process(target=grown, args=(profile, asset.key, queue))
                process.start()
                process.join()
                if process.exitcode:
                    raise UserError(f"{asset.key} failed")
                memory, device = queue.get()
                found.setdefault(asset.key, {})[size] = memory
                gpu.setdefault(asset.key, {})[size] = device
        return {"megabytes": found, "gpu_megabytes": gpu, "source_megabytes": sources(Path(folder))}


def members(shard: int, samples: int) -> Iterator[tuple[str, bytes]]:
    for number in range(shard * samples, (shard + 1) * samples):
        caption = f"a photo of thing {number % 10}"
        yield f"{number:09d}.jpg", photograph(number % 32)
        yield f"{number:09d}.txt", caption.encode()
        yield f"{number:09d}.json", json.dumps({"caption": caption}).encode()


def grown(profile: Path, key: str, queue: Any) -> None:
    """Materialize an asset. Put the growth in MB of the process and on its GPU after the first group into ``queue``."""
    torch.set_num_threads(1)
    pipeline = Pipeline(load(profile))
    before = status("VmRSS")
    first, *others = pipeline.groups(pipeline.graph[key])
    pipeline.materialize(key, first)
    device = torch.cuda.max_memory_allocated() / 1e6 if torch.cuda.is_available() else 0.0
    queue.put((status("VmHWM") - before, device))
    for group in others:
        pipeline.materialize(key, group)


def sources(folder: Path) -> dict[str, float]:
    """Return the growth in MB for finding all samples of a training and for the order of an epoch."""
    tar = write_reinforced(folder / "tiny.tar", 2000, views=1, captions=1, dim=8)
    found = {}
    for size, shards in SOURCES.items():
        fork = multiprocessing.get_context("fork")
        queue = fork.SimpleQueue()
        process = fork.Process(target=source_grown, args=(tar, shards, queue))
        process.start()
        process.join()
        found[size] = queue.get()
    return found


def source_grown(tar: Path, shards: int, queue: Any) -> None:
    before = status("VmRSS")
    source = data.ReinforcedSource([tar] * shards, lambda _: torch.zeros(1, 1), Preprocess(16), seed=0)
    assert sum(map(len, source.order(0))) == len(source)
    queue.put(status("VmHWM") - before)


def status(field: str) -> float:
    """Return a field of /proc/self/status in MB."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[field].split()[0]) / 1000


def show(numbers: dict[str, Any]) -> str:
    lines = [f"{'MB that a stage takes':44}" + "".join(f"{size:>18}" for size in SIZES)]
    for key, each in numbers["megabytes"].items():
        base, *others = each.values()
        verdict = "" if max(others) - base <= ALLOWED else "  GROWS"
        lines.append(f"{key:44}" + "".join(f"{value:18.1f}" for value in each.values()) + verdict)
    stated = ", ".join(f"{value:.1f} for {size}" for size, value in numbers["source_megabytes"].items())
    small, large = numbers["source_megabytes"].values()
    verdict = "" if large - small <= SOURCE_ALLOWED else "  GROWS"
    lines.append(f"MB that the places of training's samples take: {stated}{verdict}")
    if any(value for each in numbers["gpu_megabytes"].values() for value in each.values()):
        lines.append("MB on the GPU")
        for key, each in numbers["gpu_megabytes"].items():
            lines.append(f"{key:44}" + "".join(f"{value:18.1f}" for value in each.values()))
    return "\n".join(lines)

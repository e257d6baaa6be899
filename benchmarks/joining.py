"""Compare joining a shard and its stored annotations with a plain copy of the same bytes.

The data follow the paper's full recipe: two teachers with 768 dimensions each, two views, the real caption and five
synthetic ones. The images are photo-like JPEGs. The copy is of the finished tar. Both the copy and the join end when
the bytes are on disk. The join with ``storage: npz`` does no packing, so the difference is the cost of packing.
"""

from __future__ import annotations

import cProfile
import os
import pstats
import shutil
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import torch

from benchmarks._data import write_shard
from benchmarks._turns import Numbers, bars, in_turns, machine, ratio, table, verdict
from mobileclip2.config.augmentation import Augmentation
from mobileclip2.config.filters import Filters
from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import sample_view
from mobileclip2.data.join import TeacherFiles, join_shard
from mobileclip2.data.tar import read_samples
from mobileclip2.data.validate import validate_shard

SAMPLES, TEACHERS, DIM, VIEWS, CAPTIONS, REPEATS, WANTED = 512, 2, 768, 2, 5, 5, 0.5

STEPS = {
    "reading the source": ("tar.py", ("read_samples",)),
    "views, captions, embeddings by key": ("join.py", ("sample",)),
    "packing embeddings": ("reinforced_format.py", ("pack",)),
    "writing the tar": ("tar.py", ("write",)),
}
"""Steps of a join -> file and functions. The functions do not call each other."""


def measure() -> Numbers:
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        source, out, copy = place / "00000.tar", place / "dr.tar", place / "copy.tar"
        join = prepare(source, place)
        join(out=out)
        stored = out.stat().st_size

        def copied() -> None:
            with out.open("rb") as old, copy.open("wb") as new:
                shutil.copyfileobj(old, new, 1 << 20)
                os.fsync(new.fileno())

        times = in_turns(
            {
                "copy": copied,
                "join": partial(join, out=place / "again.tar"),
                "join, npz": partial(join, out=place / "npz.tar", storage="npz"),
            },
            REPEATS,
        )
        return {
            "machine": machine(),
            "samples": SAMPLES,
            "bytes": stored / SAMPLES,
            "times": times,
            "of_copy": ratio(times, "copy", "join"),
            "where": where(partial(join, out=place / "again.tar")),
        }


def prepare(source: Path, place: Path) -> Callable[..., object]:
    """Write a shard and its sidecars. Return a function that joins them."""
    write_shard(source, SAMPLES)
    with source.open("rb") as file:
        raw = validate_shard(read_samples(file, source.name), Filters())[0]
    keys = raw.column("key").to_pylist()

    def stored(name: str, data: pa.Table) -> Path:
        (place / f"{name}.parquet").write_bytes(sidecar.to_bytes(data))
        return place / f"{name}.parquet"

    def embedded(name: str) -> Path:
        rows = torch.nn.functional.normalize(torch.randn(len(keys), DIM), dim=-1)
        return stored(name, sidecar.embeddings_table(keys, rows))

    sizes = list(zip(keys, raw.column("width").to_pylist(), raw.column("height").to_pylist(), strict=True))
    views = [
        [sample_view(Augmentation(), 0, key, number, width, height).to_json() for key, width, height in sizes]
        for number in range(VIEWS)
    ]
    texts = raw.column("caption").to_pylist()
    inputs = (
        stored("raw", raw),
        [
            stored(f"view-{number}", pa.table({"key": keys, "view": of}, schema=sidecar.VIEWS))
            for number, of in enumerate(views)
        ],
        {
            "coca": [
                stored(f"caption-{number}", pa.table({"key": keys, "caption": texts}, schema=sidecar.CAPTIONS))
                for number in range(CAPTIONS)
            ]
        },
        [
            TeacherFiles(
                f"t{teacher}",
                [embedded(f"{teacher}-image-{number}") for number in range(VIEWS)],
                embedded(f"{teacher}-text"),
                {"coca": [embedded(f"{teacher}-coca-{number}") for number in range(CAPTIONS)]},
            )
            for teacher in range(TEACHERS)
        ],
    )

    def join(**options: Any) -> None:
        with source.open("rb") as file:
            join_shard(file, *inputs, **options)

    return join


def where(join: Callable[[], object]) -> dict[str, float]:
    """Return the seconds of each step, from a profile. Profiling slows small functions more than large ones."""
    with cProfile.Profile() as seen:
        join()
    stats = pstats.Stats(seen)
    found: dict[tuple[str, int, str], tuple[int, int, float, float, object]] = vars(stats)["stats"]
    spent = {
        step: sum(
            cumulative
            for (path, _, function), (_, _, _, cumulative, _) in found.items()
            if Path(path).name == file and "mobileclip2" in path and function in functions
        )
        for step, (file, functions) in STEPS.items()
    }
    total: float = vars(stats)["total_tt"]
    return {**spent, "the rest": max(0.0, total - sum(spent.values()))}


def show(numbers: Numbers) -> str:
    of = numbers["of_copy"]
    return "\n".join(
        [
            f"{numbers['samples']} samples of {numbers['bytes']:,.0f} bytes; {numbers['machine']}; milliseconds a sample",
            *table(numbers["times"], "copy", numbers["samples"], "ms"),
            f"  copy to join: {of['wall']:.2f} (CPU time {of['cpu']:.2f}), {verdict(of['wall'], WANTED)}",
            "where the join spends its time",
            *bars(numbers["where"]),
        ]
    )

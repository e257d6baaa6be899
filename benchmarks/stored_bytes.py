"""Bytes per sample and read speed of stored embeddings, in the files of this project and in the published formats.

The data follow the paper's full recipe: two teachers with 768 dimensions each, two views, the real caption and five
synthetic ones. The embeddings are random directions, which do not compress better than real ones.

- ``side files``: one Parquet file of a shard for each teacher, view and caption. Stages exchange these files.
- ``pth.gz``: the member of a reinforced tar that this project writes.
- ``fp32 npz`` and ``bf16 gzip pickle``: the published members. The second one uses the default level of gzip.
"""

from __future__ import annotations

import gzip
import io
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks._turns import Numbers, in_turns, machine, median, verdict
from mobileclip2.data import reinforced_format as reinforced
from mobileclip2.data import sidecar

SAMPLES, TEACHERS, DIM, VIEWS, CAPTIONS, REPEATS = 2048, 2, 768, 2, 5, 5
ROWS = VIEWS + 1 + CAPTIONS


def measure() -> Numbers:
    torch.manual_seed(0)
    rows = torch.nn.functional.normalize(torch.randn(SAMPLES, ROWS, TEACHERS, DIM), dim=-1).bfloat16()
    keys = [f"{number:09d}" for number in range(SAMPLES)]
    samples = [
        {
            "image_emb": sample[:VIEWS].flatten(1),
            "text_emb": sample[VIEWS : VIEWS + 1].flatten(1),
            "syn_text_coca_emb": sample[VIEWS + 1 :].flatten(1),
        }
        for sample in rows
    ]
    members = {
        "pth.gz": [reinforced.pack(sample, "pth.gz") for sample in samples],
        "fp32 npz": [reinforced.pack(sample, "npz") for sample in samples],
        "bf16 gzip pickle": [gzip_pickle(sample) for sample in samples],
    }
    with tempfile.TemporaryDirectory() as folder:
        paths = []
        for row in range(ROWS):
            for teacher in range(TEACHERS):
                path = Path(folder) / f"{row}-{teacher}.parquet"
                path.write_bytes(sidecar.to_bytes(sidecar.embeddings_table(keys, rows[:, row, teacher])))
                paths.append(path)
        sizes = {"side files": sum(path.stat().st_size for path in paths)}
        sizes |= {name: sum(map(len, packed)) for name, packed in members.items()}
        readers: dict[str, Callable[[], object]] = {
            "side files": lambda: [sidecar.read_embeddings(path) for path in paths],
            **{name: partial(unpacked, name, packed) for name, packed in members.items()},
        }
        times = in_turns(readers, REPEATS)
    return {
        "machine": machine(),
        "bytes": {name: size / SAMPLES for name, size in sizes.items()},
        "samples_a_second": {name: SAMPLES / median(times, name) for name in times},
        "samples_a_cpu_second": {name: SAMPLES / median(times, name, "cpu") for name in times},
    }


def unpacked(name: str, packed: list[bytes]) -> list[dict[str, torch.Tensor]]:
    member = "npz" if "npz" in name else "pth.gz"
    return [reinforced.unpack({member: data}) for data in packed]


def gzip_pickle(sample: dict[str, torch.Tensor]) -> bytes:
    buffer = io.BytesIO()
    torch.save({name: rows.clone() for name, rows in sample.items()}, buffer)
    return gzip.compress(buffer.getvalue())


def show(numbers: Numbers) -> str:
    each = TEACHERS * DIM * ROWS
    lines = [
        f"{ROWS} embeddings of {TEACHERS * DIM} numbers a sample, {2 * each:,} bytes as bare bf16; {numbers['machine']}"
    ]
    published = [numbers["bytes"]["fp32 npz"], numbers["bytes"]["bf16 gzip pickle"]]
    for name, size in numbers["bytes"].items():
        lines.append(
            f"  {name:18} {size:8,.0f} bytes a sample  {size / each / 2:5.2f} of bf16  "
            f"read {numbers['samples_a_second'][name]:8,.0f} samples/s  "
            f"({numbers['samples_a_cpu_second'][name]:,.0f} a second of CPU time)"
        )
    share = numbers["bytes"]["side files"] / min(published)
    return "\n".join(
        [*lines, f"  side files to the smaller published: {share:.2f}, {verdict(share, 1, at_least=False)}"]
    )

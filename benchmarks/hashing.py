"""The cost of comparing images with their stored hashes. Each reader runs with SHA-256 and with a free hash.

``raw_shards`` validates the samples of a tar, which computes the hashes. ``teacher_embeddings`` brings images to the pixels
of a teacher, without the teacher. ``loader`` brings reinforced shards to the batches of a student. Images are JPEGs of 34 kB
on average. One thread, so that CPU time counts.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import open_clip
import torch

from benchmarks._pictures import photograph, reinforced
from benchmarks._turns import Numbers, in_turns, ratios, stated, verdict
from benchmarks.loader import handed_over
from mobileclip2.config.filters import Filters
from mobileclip2.data import validate
from mobileclip2.data.image import decode
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.data.reinforced_format import encode
from mobileclip2.data.tar import TarWriter, read_samples
from mobileclip2.data.validate import check_image, iter_valid, validate_shard
from mobileclip2.training import data

SHARDS, SAMPLES, REPEATS, SIZE, VIEWS = 2, 128, 9, 224, 2
WANTED = 1.05


class _Equal(str):
    """A hash that equals every other hash."""

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False

    __hash__ = str.__hash__


def measure() -> Numbers:
    """Time the readers in turns."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    tokenize = open_clip.get_tokenizer("MobileCLIP2-S0")
    try:
        with tempfile.TemporaryDirectory() as temporary, patch.object(data, "CACHED_BYTES", 0):
            raw, tars = write(Path(temporary))
            readers: dict[str, Callable[[], object]] = {
                "raw_shards": partial(validated, raw),
                "teacher_embeddings": partial(pixels, raw, validated(raw)),
                "loader": lambda: [len(batch["image"]) for batch in handed_over(tars, tokenize)],
            }
            found = {}
            for name, reader in readers.items():
                times = in_turns({"with": reader, "without": partial(without_hashes, reader)}, REPEATS)
                found[name] = ratios(times["with"]["cpu"], times["without"]["cpu"])
    finally:
        torch.set_num_threads(threads)
    return {"samples": SHARDS * SAMPLES, "repeats": REPEATS, "ratios": found}


def write(folder: Path) -> tuple[Path, list[Path]]:
    """Write a raw shard and reinforced shards of the same images."""
    raw, tars = folder / "raw.tar", [folder / f"{number}.tar" for number in range(SHARDS)]
    with TarWriter(raw) as writer:
        for number in range(SHARDS * SAMPLES):
            writer.write(f"{number:09d}", {"jpg": photograph(number % 32), "txt": f"photograph {number}".encode()})
    for shard, path in enumerate(tars):
        with TarWriter(path) as writer:
            for number in range(shard * SAMPLES, (shard + 1) * SAMPLES):
                sample = reinforced(number, VIEWS, 5, 1536)
                assert sample.image is not None
                sample.rest["image_sha256"] = hashlib.sha256(sample.image).hexdigest()
                writer.write(sample.key, encode(sample, "pth.gz"))
    return raw, tars


def validated(raw: Path) -> Any:
    """Return the table of the valid samples of a shard."""
    with raw.open("rb") as file:
        return validate_shard(read_samples(file, raw.name), Filters())[0]


def pixels(raw: Path, table: Any) -> None:
    """Bring the valid images of a shard to pixels."""
    preprocess, rows = Preprocess(SIZE), table.to_pylist()
    with raw.open("rb") as file:
        for row, (_, members) in zip(rows, iter_valid(file, raw.name, [row["key"] for row in rows]), strict=True):
            preprocess.pixels(preprocess.center(decode(check_image(members[row["image"]], row, raw.name))))


def without_hashes(reader: Callable[[], object]) -> None:
    """Call a reader with hashes that take no time."""
    hashed = SimpleNamespace(hexdigest=lambda: _Equal("0" * 64))
    free = SimpleNamespace(sha256=lambda _: hashed, blake2b=hashlib.blake2b)
    with patch.object(validate, "hashlib", free), patch.object(data, "hashlib", free):
        reader()


def show(numbers: Numbers) -> str:
    """Return a line for each reader."""
    lines = [f"{numbers['samples']} images, one thread, {numbers['repeats']} repeats: CPU time with hashes to without"]
    for name, ratio in numbers["ratios"].items():
        lines.append(f"  {name:20} {stated(ratio)} x, {verdict(ratio['median'], WANTED, at_least=False)}")
    return "\n".join(lines)

"""Tars, images and reinforced members."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

from mobileclip2.config.filters import Filters
from mobileclip2.data import image, reinforced_format
from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.data.tar import read_samples
from mobileclip2.data.validate import validate_shard
from tests.fuzz.harness import fuzz


def test_tar() -> None:
    fuzz("tar", lambda data: validate_shard(read_samples(io.BytesIO(data), "fuzzed.tar"), Filters()))


def test_indexed_tar(tmp_path: Path) -> None:
    numbers = itertools.count()

    def read(data: bytes) -> None:
        path = tmp_path / f"{next(numbers)}.tar"
        path.write_bytes(data)
        try:
            index = IndexedTar(path)
            for number in range(len(index)):
                index.members(number)
        finally:
            path.unlink()

    fuzz("tar", read)


def test_image() -> None:
    fuzz("image", image.decode)


def test_reinforced_members() -> None:
    def read(data: bytes) -> None:
        for sample in read_samples(io.BytesIO(data), "fuzzed.tar"):
            if sample.fault is None:
                reinforced_format.decode(sample.members, sample.key, "fuzzed.tar")

    fuzz("reinforced", read)


def test_reinforced_embeddings() -> None:
    texts = {"txt": b"a", "syn.json": b'{"syn_text": ["b"]}', "paug.json": b'{"param_aug": []}'}
    for member in ("npz", "pth.gz"):
        fuzz(member, lambda data, member=member: reinforced_format.decode({**texts, member: data}, "k", "fuzzed.tar"))

"""Reinforced shards in the layout of DataCompDR, written without this project's encoder."""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch.nn.functional import normalize

from demo.tars import write_tar
from tests.tiny import CLASSES, SIZE, draw, encode

DIMS = (24, 8)
VIEWS, CAPTIONS = 3, 2
TEACHERS = [
    {"name": "openai", "dim": DIMS[0], "logit_scale": 100},
    {"name": "datacomp", "dim": DIMS[1], "logit_scale": 90},
]


def embeddings(number: int, rows: int) -> torch.Tensor:
    """Return concatenated unit vectors of two teachers, ``[rows, sum(DIMS)]``, bf16."""
    random = torch.Generator().manual_seed(number)
    return torch.cat([normalize(torch.randn(rows, dim, generator=random), dim=1) for dim in DIMS], dim=1).bfloat16()


def members(number: int, *, npz: bool = False) -> dict[str, bytes]:
    """Return the reinforcement of a sample, which is everything except its image and caption."""
    views = [[[2 + view, 1, 30, 40 - view], [[5, 12.5], [7, 0.25]]] for view in range(VIEWS)]
    arrays = {"image_emb": embeddings(number, VIEWS), "text_emb": embeddings(1000 + number, 1 + CAPTIONS)}
    stored = io.BytesIO()
    if npz:
        np.savez(stored, **{name: rows.float().numpy() for name, rows in arrays.items()})
    else:
        torch.save(arrays, stored)
    name, data = ("npz", stored.getvalue()) if npz else ("pth.gz", gzip.compress(stored.getvalue(), mtime=0))
    return {
        "url.txt": f"http://pictures/{number}.jpg".encode(),
        "syn.json": json.dumps({"syn_text": [f"a drawn shape {number} {each}" for each in range(CAPTIONS)]}).encode(),
        "paug.json": json.dumps({"param_aug": json.dumps(views)}).encode(),
        name: data,
        "json": json.dumps({"uid": f"uid{number:04d}", "sha256": "00"}).encode(),
    }


def picture(number: int) -> dict[str, bytes]:
    """Return the image and the caption of a sample."""
    label = CLASSES[number % len(CLASSES)]
    return {"jpg": encode(draw(label, f"published {number}")), "txt": f"a {label}".encode()}


def write_shards(folder: Path, *, shards: int = 2, samples: int = 6, images: bool = True, npz: bool = False) -> None:
    """Write shards whose samples have the keys ``uid0000`` and so on."""
    for shard in range(shards):
        write_tar(folder / f"{shard:08d}.tar", _members(range(shard * samples, (shard + 1) * samples), images, npz))


def _members(numbers: range, images: bool, npz: bool) -> Iterator[tuple[str, bytes]]:
    for number in numbers:
        parts = {**(picture(number) if images else {}), **members(number, npz=npz)}
        yield from ((f"uid{number:04d}.{extension}", data) for extension, data in parts.items())


def write_images(folder: Path, numbers: range, *, uid: bool = False, per_shard: int = 5) -> None:
    """Write the pictures in another order and in other shards than the reinforcements."""
    order = sorted(numbers, reverse=True)
    for start in range(0, len(order), per_shard):
        found: list[tuple[str, bytes]] = []
        for number in order[start : start + per_shard]:
            key = f"{number * 7:09d}" if uid else f"uid{number:04d}"
            parts = {**picture(number), "json": json.dumps({"uid": f"uid{number:04d}"}).encode()}
            found += [(f"{key}.{extension}", data) for extension, data in parts.items()]
        write_tar(folder / f"{start:05d}.tar", found)


def published_profile(tiny: Path, **source: Any) -> dict[str, Any]:
    """Return the tiny profile with a published dataset in place of its own. ``source`` sets fields of that dataset."""
    values: dict[str, Any] = yaml.safe_load(tiny.read_text())
    for section in ("sources", "captioners", "teachers", "caption_corpora"):
        values.pop(section, None)
    pupil = values["students"][0]
    values["students"] = [pupil]
    values["reinforced"] = [{"name": "datacompdr", "url": "published", "teachers": TEACHERS, **source}]
    return values


assert SIZE >= 40, "the crops of the views lie in the pictures"

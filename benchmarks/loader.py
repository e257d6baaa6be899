"""Samples per second that one core reads from DR tars into training batches, compared with webdataset readers.

``released`` reconstructs the reader of the released training code from what is known about it. It decodes every member
by its extension and converts all embeddings to fp32 tensors. It then draws a view, a caption and their rows, and
replays the view with torchvision's functions. ``lean`` is a webdataset pipeline that decodes only the data that a
sample needs. All readers make the same batches: image, real and synthetic text, three embeddings. ``ours`` ends with
the normalized pixels of a batch, like the others. ``ours, pixels`` ends with the pixels that the loader passes to a
GPU, which normalizes them.

The caches of samples are switched off, so that every sample is new to its reader, as in a pass over a large dataset.
Images are JPEGs of at most 512 pixels and 33 kB. Embeddings have 1,536 dimensions, as in DFNDR. There are 2 views as in
DFNDR-2B, and 30 as in DFNDR-12M.
"""

from __future__ import annotations

import gzip
import io
import json
import random
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import open_clip
import torch
import webdataset as wds
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from benchmarks._pictures import write_reinforced
from benchmarks._turns import in_turns, ratios, stated, verdict
from mobileclip2.config.training import TrainSettings
from mobileclip2.data.augmentation import OPERATIONS
from mobileclip2.data.preprocess import CLIP_MEAN, CLIP_STD, Preprocess
from mobileclip2.models.words import CachedEncoder
from mobileclip2.training import data
from mobileclip2.training.batches import batches
from mobileclip2.training.data import ReinforcedSource
from mobileclip2.training.distributed import World

SHARDS, SAMPLES, BATCH, REPEATS, SIZE = 2, 128, 64, 7, 224
TARGET = 1.5
VIEWS = {"2 views": 2, "30 views": 30}

Batch = Any
Tokenize = Callable[[Sequence[str]], torch.Tensor]


def measure() -> dict[str, Any]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the result is samples per core
    tokenize, words = (open_clip.get_tokenizer("MobileCLIP2-S0") for _ in range(2))
    words.encode = CachedEncoder(words)
    try:
        with tempfile.TemporaryDirectory() as folder, patch.object(data, "CACHED_BYTES", 0):
            found = {}
            for name, views in VIEWS.items():
                tars = [
                    write_reinforced(Path(folder) / name / f"{shard}.tar", SAMPLES, views=views, start=shard * SAMPLES)
                    for shard in range(SHARDS)
                ]
                runs = {
                    "ours": partial(drain, ours, tars, words),
                    "ours, pixels": partial(drain, handed_over, tars, words),
                    "released": partial(drain, released, tars, tokenize),
                    "lean": partial(drain, lean, tars, tokenize),
                }
                found[name] = {each: clocks["cpu"] for each, clocks in in_turns(runs, REPEATS).items()}
    finally:
        torch.set_num_threads(threads)
    return {
        "samples": SHARDS * SAMPLES,
        "repeats": REPEATS,
        "cpu_seconds": found,
        "times": {
            name: {
                of: {other: ratios(seconds[other], seconds[of]) for other in ("released", "lean")}
                for of in ("ours", "ours, pixels")
            }
            for name, seconds in found.items()
        },
    }


def drain(read: Callable[[list[Path], Tokenize], Iterator[Batch]], tars: list[Path], tokenize: Tokenize) -> None:
    assert sum(len(batch["image"]) for batch in read(tars, tokenize)) == SHARDS * SAMPLES


def handed_over(tars: list[Path], tokenize: Tokenize) -> Iterator[Batch]:
    source = ReinforcedSource(tars, tokenize, Preprocess(SIZE), seed=0)
    settings = TrainSettings(steps=SHARDS * SAMPLES // BATCH, batch=BATCH, learning_rate=1e-3)
    return batches(source, settings, World(0, 1, torch.device("cpu")), 0)


def ours(tars: list[Path], tokenize: Tokenize) -> Iterator[Batch]:
    for batch in handed_over(tars, tokenize):
        yield {**batch, "image": Preprocess(SIZE).normalized(batch["image"])}


def released(tars: list[Path], tokenize: Tokenize) -> Iterator[Batch]:
    dataset = (
        wds.WebDataset([str(tar) for tar in tars], shardshuffle=len(tars), empty_check=False)
        .shuffle(SAMPLES)
        .decode(wds.handle_extension("pth.gz", _pth_gz), "pilrgb")
        .map(partial(_drawn, tokenize=tokenize))
    )
    return iter(dataset.batched(BATCH, collation_fn=torch.utils.data.default_collate))


def lean(tars: list[Path], tokenize: Tokenize) -> Iterator[Batch]:
    dataset = (
        wds.WebDataset([str(tar) for tar in tars], shardshuffle=len(tars), empty_check=False)
        .shuffle(SAMPLES)
        .map(partial(_needed, tokenize=tokenize))
    )
    return iter(dataset.batched(BATCH, collation_fn=torch.utils.data.default_collate))


def _pth_gz(value: bytes) -> dict[str, torch.Tensor]:
    stored = torch.load(io.BytesIO(gzip.decompress(value)), map_location="cpu", weights_only=True)
    return {name: rows.float() for name, rows in stored.items()}


def _drawn(sample: Mapping[str, Any], tokenize: Tokenize) -> dict[str, torch.Tensor]:
    captions, embeddings, views = sample["syn.json"], sample["pth.gz"], sample["paug.json"]["param_aug"]
    field = random.choice(sorted(captions))
    caption, view = random.randrange(len(captions[field])), random.randrange(len(views))
    return {
        "image": _replayed(sample["jpg"], views[view]),
        "text": tokenize([sample["txt"]])[0],
        "synthetic_text": tokenize([captions[field][caption]])[0],
        "teacher_image": embeddings["image_emb"][view],
        "teacher_text": embeddings["text_emb"][0],
        "teacher_synthetic_text": embeddings[f"{field}_emb"][caption],
    }


def _needed(sample: Mapping[str, bytes], tokenize: Tokenize) -> dict[str, torch.Tensor]:
    captions, views = json.loads(sample["syn.json"]), json.loads(sample["paug.json"])["param_aug"]
    field = random.choice(sorted(captions))
    caption, view = random.randrange(len(captions[field])), random.randrange(len(views))
    stored = torch.load(io.BytesIO(gzip.decompress(sample["pth.gz"])), map_location="cpu", weights_only=True)
    return {
        "image": _replayed(Image.open(io.BytesIO(sample["jpg"])).convert("RGB"), views[view]),
        "text": tokenize([sample["txt"].decode()])[0],
        "synthetic_text": tokenize([captions[field][caption]])[0],
        "teacher_image": stored["image_emb"][view].float(),
        "teacher_text": stored["text_emb"][0].float(),
        "teacher_synthetic_text": stored[f"{field}_emb"][caption].float(),
    }


def _replayed(image: Image.Image, view: list[Any]) -> torch.Tensor:
    crop, operations = view
    image = F.resized_crop(image, *crop, [SIZE, SIZE], InterpolationMode.BICUBIC)
    for operation, magnitude in operations or ():
        image = _apply_op(image, OPERATIONS[operation], magnitude, InterpolationMode.NEAREST, None)
    pixels: torch.Tensor = F.normalize(F.to_tensor(image), CLIP_MEAN, CLIP_STD)
    return pixels


def show(numbers: dict[str, Any]) -> str:
    lines = [f"samples a second of CPU, {numbers['samples']} samples, {numbers['repeats']} repeats"]
    for name, seconds in numbers["cpu_seconds"].items():
        for reader, values in seconds.items():
            rates = numbers["samples"] / np.array(values)
            lines.append(f"  {name:9} {reader:14} median {np.median(rates):6.0f}  spread {np.ptp(rates):5.0f}")
        for of, others in numbers["times"][name].items():
            for other, ratio in others.items():
                reached = verdict(ratio["median"], TARGET)
                lines.append(f"  {name:9} {of:14} {stated(ratio)} times as fast as {other}, {reached}")
    return "\n".join(lines)

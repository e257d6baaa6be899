"""Photo-like pictures and the reinforced shards that are made from them, for the benchmarks of reading."""

from __future__ import annotations

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from mobileclip2.config.augmentation import Augmentation
from mobileclip2.data.augmentation import sample_view
from mobileclip2.data.reinforced_format import ReinforcedSample, Storage, encode
from mobileclip2.data.tar import TarWriter

SIZES = ((512, 384), (384, 512), (512, 341), (400, 400))
"""Width and height. The longer side of images downloaded for DataComp's pool has at most 512 pixels."""

WORDS = [
    "a",
    "the",
    "of",
    "with",
    "and",
    "in",
    "on",
    "at",
    "near",
    "old",
    "small",
    "bright",
    "wooden",
    "red",
    "blue",
    "kitchen",
    "garden",
    "street",
    "window",
    "mountain",
    "river",
    "photo",
    "portrait",
    "vintage",
    "ceramic",
    "handmade",
    "leather",
    "summer",
    "winter",
    "sale",
    "free",
    "shipping",
    "vector",
    "illustration",
    "background",
    "isolated",
    "white",
    "woman",
    "man",
    "child",
    "dog",
    "cat",
    "horse",
    "bird",
    "car",
    "train",
    "bicycle",
    "bridge",
    "castle",
    "church",
    "market",
    "table",
    "chair",
    "lamp",
    "flower",
]


@lru_cache(64)
def photograph(number: int) -> bytes:
    """Return a JPEG of about 34 kB, the average of DFN-2B: noise with the spectrum of photographs, and some edges."""
    random = np.random.default_rng(number)
    width, height = SIZES[number % len(SIZES)]
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None])
    frequency[0, 0] = 1
    noise = np.fft.irfft2(
        (random.normal(size=(4, *frequency.shape)) + 1j * random.normal(size=(4, *frequency.shape))) / frequency**1.5,
        (height, width),
    )
    noise /= noise.std(axis=(1, 2), keepdims=True)
    picture = Image.fromarray((128 + 45 * noise[:1] + 14 * noise[1:]).clip(0, 255).astype(np.uint8).transpose(1, 2, 0))
    pencil = ImageDraw.Draw(picture)
    for _ in range(6):
        x, y, across, down = (
            int(share * side) for share, side in zip(random.random(4), (width, height) * 2, strict=True)
        )
        box = (x, y, x + across // 3, y + down // 3)
        color = tuple(int(value) for value in random.integers(0, 256, 3))
        (pencil.ellipse if random.random() < 0.5 else pencil.rectangle)(box, outline=color, width=4)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def sentence(random: np.random.Generator, words: int) -> str:
    return " ".join(WORDS[place] for place in random.integers(len(WORDS), size=words))


def write_reinforced(
    path: Path,
    samples: int,
    *,
    views: int,
    captions: int = 5,
    dim: int = 1536,
    storage: Storage = "pth.gz",
    start: int = 0,
) -> Path:
    """Write a DR tar with the counts of the published datasets. DFNDR-2B has 2 views, DFNDR-12M has 30."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with TarWriter(path) as writer:
        for number in range(start, start + samples):
            writer.write(f"{number:09d}", encode(reinforced(number, views, captions, dim), storage))
    return path


def reinforced(number: int, views: int, captions: int, dim: int) -> ReinforcedSample:
    random = np.random.default_rng(number)
    image = photograph(number % 32)
    key = f"{number:09d}"
    size = SIZES[number % len(SIZES)]
    return ReinforcedSample(
        key,
        sentence(random, int(random.integers(4, 20))),
        [sample_view(Augmentation(), 0, key, view, *size) for view in range(views)],
        {"syn_text_coca": [sentence(random, int(random.integers(7, 14))) for _ in range(captions)]},
        embeddings(random, views, dim),
        embeddings(random, 1, dim),
        {"syn_text_coca": embeddings(random, captions, dim)},
        image=image,
        rest={"uid": key, "sha256": key},
    )


def embeddings(random: np.random.Generator, rows: int, dim: int) -> torch.Tensor:
    numbers = torch.from_numpy(random.normal(size=(rows, dim)).astype(np.float32))
    return torch.nn.functional.normalize(numbers, dim=1).bfloat16()

"""Tiny data for the tests: all files that ``pipelines/profiles/tiny.yaml`` refers to, created in a moment.

The pictures are colored shapes, so that a test can tell from the caption what an image must show. The same call writes the
same bytes.

::

    tiny.yaml               the profile
    shards/00000.tar ...    DFN layout: jpg, txt, json; the sample BAD_KEY of the first shard is a truncated JPEG
    corpus/00000.tar        clean captions: every class once, jpg and txt
    evaluation/shapes/      the published layout; every class once
    weights/*.safetensors   random weights of the teachers
"""

from __future__ import annotations

import io
import json
import random
import shutil
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import torch
from PIL import Image, ImageDraw
from safetensors.torch import save_file

from demo.tars import write_tar
from mobileclip2.config.profile import load
from mobileclip2.models.build import from_config
from pipelines.profiles import PROFILES

SIZE = 48
COLOURS = ("red", "green", "blue", "yellow")
SHAPES = ("square", "circle", "triangle")
CLASSES = tuple(f"{color} {shape}" for color, shape in product(COLOURS, SHAPES))
TEMPLATES = ("a {c}", "a drawing of a {c}")

BAD_KEY = "000000001"
"""Key of the sample whose JPEG ends in the middle. The samples around it are good."""


def make_tiny(folder: Path, *, shards: int = 4, samples: int = 6) -> Path:
    """Write the tiny profile and all files that it refers to into ``folder``. Return the profile's path.

    Shard n goes to group n modulo 2. One of the ``shards * samples`` raw samples is bad.
    """
    folder.mkdir(parents=True, exist_ok=True)
    profile = Path(shutil.copy(PROFILES / "tiny.yaml", folder))
    for shard in range(shards):
        write_tar(folder / "shards" / f"{shard:05d}.tar", _raw_members(shard, samples))
    write_tar(folder / "corpus" / "00000.tar", _corpus_members())
    _write_evaluation(folder / "evaluation" / "shapes")
    _write_weights(profile)
    return profile


def draw(label: str, seed: str) -> Image.Image:
    """Draw one of :data:`CLASSES`. ``seed`` determines the size, the position and the gray of the background."""
    color, shape = label.split()
    choose = random.Random(seed)
    radius = choose.randint(SIZE // 5, SIZE // 3)
    x, y = (choose.randint(radius, SIZE - 1 - radius) for _ in "xy")
    image = Image.new("RGB", (SIZE, SIZE), (choose.randint(170, 255),) * 3)
    pencil = ImageDraw.Draw(image)
    if shape == "square":
        pencil.rectangle((x - radius, y - radius, x + radius, y + radius), fill=color)
    elif shape == "circle":
        pencil.circle((x, y), radius, fill=color)
    else:
        pencil.regular_polygon((x, y, radius), 3, fill=color)
    return image


def encode(image: Image.Image, kind: str = "JPEG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, quality=90)
    return buffer.getvalue()


def _raw_members(shard: int, samples: int) -> Iterator[tuple[str, bytes]]:
    start = shard * samples
    for number in range(start, start + samples):
        key = f"{number:09d}"
        caption = f"a {CLASSES[number % len(CLASSES)]}"
        image = encode(draw(CLASSES[number % len(CLASSES)], f"raw {number}"))
        yield f"{key}.jpg", image[: len(image) // 2] if key == BAD_KEY else image
        yield f"{key}.txt", caption.encode()
        yield f"{key}.json", json.dumps({"caption": caption, "key": key, "width": SIZE, "height": SIZE}).encode()


def _corpus_members() -> Iterator[tuple[str, bytes]]:
    for number, label in enumerate(CLASSES):
        yield f"{number:09d}.jpg", encode(draw(label, f"corpus {number}"))
        yield f"{number:09d}.txt", f"a {label} on a grey ground".encode()


def _write_evaluation(folder: Path) -> None:
    (folder / "test").mkdir(parents=True)
    (folder / "classnames.txt").write_text("".join(f"{label}\n" for label in CLASSES))
    (folder / "zeroshot_classification_templates.txt").write_text("".join(f"{line}\n" for line in TEMPLATES))
    (folder / "test" / "nshards.txt").write_text("1\n")
    members = []
    for number, label in enumerate(CLASSES):
        members.append((f"s{number:07d}.webp", encode(draw(label, f"test {number}"), "WEBP")))
        members.append((f"s{number:07d}.cls", str(number).encode()))
    write_tar(folder / "test" / "0.tar", members)


def _write_weights(profile: Path) -> None:
    loaded = load(profile)
    for seed, teacher in enumerate(loaded.teachers):
        assert teacher.model and teacher.model.config and teacher.model.weights and teacher.model.weights.path
        path = Path(loaded.locate(teacher.model.weights.path))
        path.parent.mkdir(exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = from_config({"model_cfg": teacher.model.config}).model
        save_file({name: tensor.contiguous().clone() for name, tensor in model.state_dict().items()}, path)

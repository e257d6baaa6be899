"""Generated shards, caption corpora and evaluation sets of every layout. The same call writes the same bytes."""

from __future__ import annotations

import io
import random
from collections.abc import Mapping
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, ImageDraw

from mobileclip2.config.evaluation_tasks import TASKS, Kind
from mobileclip2.data.tar import TarWriter
from mobileclip2.evaluation.sets import ASSOCIATION_COLUMNS, CLASSNAMES, NSHARDS, QUESTIONS, TEMPLATES, TYPE

SIDE = 64
COLORS = ("red", "green", "blue", "orange")
SHAPES = ("square", "circle", "triangle")
LABELS = tuple(f"{color} {shape}" for color, shape in product(COLORS, SHAPES))
FACES = dict(zip(QUESTIONS, (7, 2, 9, 24), strict=True))
"""number of classes of each question about a face"""
QUESTION_SIZES = (5, 6, 10, 12)
"""number of candidates of each question of an association set"""


def write_shards(folder: Path, shards: int, samples: int) -> None:
    """Write shards of drawings with captions."""
    folder.mkdir(parents=True)
    for shard in range(shards):
        with TarWriter(folder / f"{shard:05d}.tar") as tar:
            for number in range(shard * samples, (shard + 1) * samples):
                label = LABELS[number % len(LABELS)]
                tar.write(f"{number:09d}", {"jpg": draw(label, number), "txt": f"a drawing of a {label}".encode()})


def write_set(folder: Path, name: str) -> None:
    """Write an evaluation set of the layout that the suite has for ``name``. Other names get a classification set."""
    task = TASKS.get(name)
    kind: Kind = task.kind if task else "retrieval" if name.startswith("retrieval/") else "classification"
    (folder / "test").mkdir(parents=True)
    if kind == "association":
        _write_questions(folder / "test" / "0.parquet")
        return
    for file, text in {**_texts(kind), NSHARDS: "1\n"}.items():
        (folder / file).write_text(text)
    with TarWriter(folder / "test" / "0.tar") as tar:
        for number, label in enumerate(LABELS):
            fields = _fields(number, len(task.fields) if task else 0, kind)
            tar.write(f"s{number:07d}", {"jpg": draw(label, number, name), **_answer(kind, number, label), **fields})


def draw(label: str, number: int, purpose: str = "shards") -> bytes:
    """Draw one of :data:`LABELS` and return a JPEG. Size, position and background depend on ``number`` and ``purpose``."""
    color, shape = label.split()
    choose = random.Random(f"{purpose} {number}")
    radius = choose.randint(SIDE // 5, SIDE // 3)
    x, y = (choose.randint(radius, SIDE - 1 - radius) for _ in "xy")
    image = Image.new("RGB", (SIDE, SIDE), (choose.randint(170, 255),) * 3)
    pencil = ImageDraw.Draw(image)
    if shape == "square":
        pencil.rectangle((x - radius, y - radius, x + radius, y + radius), fill=color)
    else:
        pencil.regular_polygon((x, y, radius), 3 if shape == "triangle" else 60, fill=color)
    with io.BytesIO() as file:
        image.save(file, "JPEG", quality=90)
        return file.getvalue()


def _texts(kind: Kind) -> dict[str, str]:
    if kind == "retrieval":
        return {TYPE: "retrieval\n"}
    if kind == "faces":
        classes = [f"{question}:{question} {number}" for question, count in FACES.items() for number in range(count)]
        return {CLASSNAMES: _lines(classes), TEMPLATES: _lines([f"{question}:a {{c}} person" for question in FACES])}
    return {CLASSNAMES: _lines(LABELS), TEMPLATES: _lines(["a drawing of a {c}"])}


def _lines(texts: tuple[str, ...] | list[str]) -> str:
    return "".join(f"{text}\n" for text in texts)


def _answer(kind: Kind, number: int, label: str) -> Mapping[str, bytes]:
    if kind == "retrieval":
        return {"txt": f"a drawing of a {label}\n{label} number {number}".encode()}
    return {"cls": str(number).encode()} if kind == "classification" else {}


def _fields(number: int, count: int, kind: Kind) -> Mapping[str, bytes]:
    """Return the npy member with the columns of a set, such as region and year."""
    if not count:
        return {}
    values = [number % size for size in (9, 2, 7, 2)] if kind == "faces" else [number % 2 + 1] * count
    with io.BytesIO() as file:
        np.save(file, np.array(values))
        return {"npy": file.getvalue()}


def _write_questions(path: Path) -> None:
    names = [[f"{LABELS[number]} {size}" for number in range(size)] for size in QUESTION_SIZES]
    images = [
        [{"bytes": draw(LABELS[number], size), "path": f"{number}.jpg"} for number in range(size)]
        for size in QUESTION_SIZES
    ]
    columns = (names, images, [f"cue {size}" for size in QUESTION_SIZES], [row[:3] for row in names])
    pq.write_table(pa.table(dict(zip(ASSOCIATION_COLUMNS, columns, strict=True))), path)

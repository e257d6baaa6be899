from __future__ import annotations

import base64
import io
import random
import re
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from mobileclip2.report.pictures import (
    IMAGES,
    MAX_BYTES,
    MAX_CHARACTERS,
    POINTS,
    SampleRow,
    fit,
    inline_markdown,
    sample_sheet,
    sparkline,
    strip,
)


def _noise(width: int, height: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def _open(data: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    return image.convert("RGB")


def test_sheet_shows_every_image() -> None:
    colors = ["#d01010", "#10d010", "#1010d0"]
    red, green, blue = (Image.new("RGB", (50, 40), color) for color in colors)
    sheet = _open(sample_sheet([SampleRow("k", red, [green, blue], "a cat", [("coca", "a small cat")])] * 2))
    found = {color: number for number, color in sheet.getcolors(1 << 20)}
    for color in ((208, 16, 16), (16, 208, 16), (16, 16, 208)):
        near = sum(n for c, n in found.items() if max(abs(a - b) for a, b in zip(c, color, strict=True)) < 8)
        assert near > 2 * 90 * 70


def test_sheet_of_photos_stays_small() -> None:
    row = SampleRow("k" * 99, _noise(640, 480), [_noise(224, 224)] * 3, "word " * 99, [("coca", "word" * 99)] * 3)
    sheet = sample_sheet([row] * 5)
    assert len(sheet) <= MAX_BYTES and len(inline_markdown(sheet)) < 60_000


def test_sheet_takes_any_caption_and_shape() -> None:
    row = SampleRow("", _noise(1, 300), [_noise(300, 2)], "日本語 \x00\u202e 🐙 " * 50, [("a", ""), ("b", "\n\n")])
    assert _open(sample_sheet([row, SampleRow("bare", _noise(9, 9))])).width > 300
    assert _open(sample_sheet([])).height > 10


def test_same_rows_same_bytes() -> None:
    row = SampleRow("k", _noise(90, 60), [], "a cat")
    assert sample_sheet([row]) == sample_sheet([row])


def test_fit_keeps_the_shape() -> None:
    assert fit(_noise(200, 100), 50).size == (50, 25)
    assert fit(_noise(1, 1000), 50).size == (1, 50)


def test_markdown_contains_the_image_bytes() -> None:
    text = inline_markdown(b"\x89PNG...", "a](http://x)\n![b")
    assert text.count("](") == 1 and "\n" not in text
    assert base64.b64decode(text.rpartition("base64,")[2].removesuffix(")")) == b"\x89PNG..."


def decoded(markdown, kind):
    found = re.fullmatch(rf"!\[[^]]*\]\(data:image/{re.escape(kind)};base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found and len(markdown) <= MAX_CHARACTERS
    return base64.b64decode(found[1])


def noise(size, seed):
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


@pytest.mark.parametrize("images", [[], [noise((400, 300), 0)], [noise((64, 64), seed) for seed in range(9)]])
def test_a_strip_shows_any_number_of_images(images):
    picture = Image.open(io.BytesIO(decoded(strip(images, "samples"), "webp")))
    assert picture.width == picture.height * max(1, min(len(images), IMAGES))


def test_flat_images_are_drawn_larger_than_noise():
    flat = [Image.new("RGB", (64, 64), "red")] * IMAGES
    heights = [
        Image.open(io.BytesIO(decoded(strip(images, "x"), "webp"))).height
        for images in (flat, [noise((64, 64), seed) for seed in range(IMAGES)])
    ]
    assert heights[0] > heights[1]


@pytest.mark.parametrize("count", [0, 1, 2, POINTS, 1000])
def test_a_curve_has_a_maximum_number_of_points(count):
    values = [10.0**5 / (1 + number) for number in range(count)]
    root = ElementTree.fromstring(decoded(sparkline(values, "loss"), "svg+xml"))
    text, line = root
    assert len(line.get("points").split()) == min(count, POINTS)
    assert text.text == (f"{values[0]:.3g} → {values[-1]:.3g}" if values else "no value")


def test_a_value_that_is_not_finite_is_left_out():
    root = ElementTree.fromstring(decoded(sparkline([2.0, float("nan"), float("inf"), 1.0], "loss"), "svg+xml"))
    assert root[0].text == "2 → 1" and len(root[1].get("points").split()) == 2

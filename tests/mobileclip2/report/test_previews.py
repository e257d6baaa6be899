import base64
import io
import random
import re
from xml.etree import ElementTree

import pytest
from PIL import Image

from mobileclip2.report.previews import IMAGES, MAX_CHARACTERS, POINTS, sparkline, strip


def decoded(markdown, kind):
    found = re.fullmatch(rf"!\[[^]]*\]\(data:image/{re.escape(kind)};base64,([A-Za-z0-9+/=]+)\)", markdown)
    assert found and len(markdown) <= MAX_CHARACTERS
    return base64.b64decode(found[1])


def noise(size, seed):
    return Image.frombytes("RGB", size, random.Random(seed).randbytes(size[0] * size[1] * 3))


@pytest.mark.parametrize("images", [[], [noise((400, 300), 0)], [noise((64, 64), seed) for seed in range(9)]])
def test_a_strip_of_any_images_is_shown_at_once(images):
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
def test_a_curve_has_at_most_as_many_points_as_fit(count):
    values = [10.0**5 / (1 + number) for number in range(count)]
    root = ElementTree.fromstring(decoded(sparkline(values, "loss"), "svg+xml"))
    text, line = root
    assert len(line.get("points").split()) == min(count, POINTS)
    assert text.text == (f"{values[0]:.3g} → {values[-1]:.3g}" if values else "no value")


def test_a_value_that_is_not_finite_is_left_out():
    root = ElementTree.fromstring(decoded(sparkline([2.0, float("nan"), float("inf"), 1.0], "loss"), "svg+xml"))
    assert root[0].text == "2 → 1" and len(root[1].get("points").split()) == 2

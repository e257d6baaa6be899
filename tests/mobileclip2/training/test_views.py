"""The fast renderer of training equals Pillow's renderer up to rounding in the resize."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from mobileclip2.data.augmentation import OPERATIONS, View, operate, render
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.errors import ShardError
from mobileclip2.training.views import render_view

CROPS = [(0, 0, 90, 120), (11, 7, 25, 31), (3, 40, 80, 60), (40, 50, 9, 50)]
"""Top, left, height and width. The third crop is taller than wide."""


def picture() -> Image.Image:
    """Return an image with smooth areas, edges and noise, which show different faults of a resize."""
    random = np.random.default_rng(0)
    down, across = np.mgrid[:90, :120]
    smooth = np.stack([down * 2, across * 2, (down * across) // 8 % 256], 2)
    return Image.fromarray((smooth + random.integers(-15, 15, smooth.shape)).clip(0, 255).astype(np.uint8))


def tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image))


@pytest.mark.parametrize("crop", CROPS)
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_a_resized_crop_equals_the_plain_one_up_to_rounding(crop, interpolation):
    view = View(crop, None)
    found = render_view(picture(), view, 64, interpolation)
    difference = (found.int() - tensor(render(picture(), view, 64, interpolation)).int()).abs().float()
    assert found.dtype == torch.uint8 and found.shape == (64, 64, 3) and found.is_contiguous()
    if crop[2] <= crop[3]:
        assert difference.max() <= 2 and (difference > 0).float().mean() < 0.01
    else:  # Pillow resizes columns first, so rounding and clipping differ
        assert difference.mean() < 0.3 and (difference > 1).float().mean() < 0.02


def test_an_image_that_pillow_stores_in_several_blocks_is_rendered_correctly():
    large = picture().resize((2400, 1800))
    with pytest.raises(ValueError, match="contiguous"):
        pa.array(large)
    view = View((0, 0, 1800, 2400), None)
    difference = (render_view(large, view, 64).int() - tensor(render(large, view, 64)).int()).abs()
    assert difference.max() <= 2


@pytest.mark.parametrize("op", range(len(OPERATIONS)))
def test_operations_equal_those_of_the_plain_renderer(op):
    view = View(CROPS[1], ((op, 7.0 if OPERATIONS[op] == "Posterize" else 0.3), (6, 0.2)))
    resized = Image.fromarray(render_view(picture(), View(CROPS[1], None), 64).numpy())
    assert torch.equal(render_view(picture(), view, 64), tensor(operate(resized, view)))


def test_other_interpolations_use_the_plain_renderer():
    view = View(CROPS[0], ((0, 0.0),))
    assert torch.equal(render_view(picture(), view, 32, "lanczos"), tensor(render(picture(), view, 32, "lanczos")))


def test_a_crop_that_leaves_the_image_is_refused():
    with pytest.raises(ShardError, match="does not fit an image of 120 x 90 pixels"):
        render_view(picture(), View((0, 60, 90, 61), None), 32)


@pytest.mark.parametrize("samples", [0, 1, 5])
def test_a_batch_of_pixels_is_normalized_like_each_image(samples):
    preprocess = Preprocess(32)
    images = [picture().crop((number, 0, number + 32, 32)) for number in range(samples)]
    pixels = torch.stack([preprocess.pixels(image) for image in images]) if samples else torch.empty(0, 32, 32, 3)
    found = preprocess.normalized(pixels)
    assert found.shape == (samples, 3, 32, 32) and found.is_contiguous(memory_format=torch.channels_last)
    assert all(torch.equal(row, preprocess.tensor(image)) for row, image in zip(found, images, strict=True))

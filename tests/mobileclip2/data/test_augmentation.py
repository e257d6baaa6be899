"""Views: distribution as in torchvision, determinism and serialization."""

import json
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import ValidationError
from torchvision.transforms import RandAugment as TorchRandAugment
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms import functional as F
from torchvision.transforms.autoaugment import _apply_op

from mobileclip2.config.augmentation import Augmentation, RandAugment
from mobileclip2.data.augmentation import OPERATIONS, View, parse_views, render, sample_view
from mobileclip2.errors import ShardError

keys = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
sides = st.integers(1, 3000)
augmentations = st.builds(
    Augmentation,
    randaugment=st.none() | st.builds(RandAugment, ops=st.integers(1, 4), magnitude=st.integers(0, 30)),
)


def picture(width: int = 131, height: int = 97) -> Image.Image:
    rng = np.random.default_rng(3)
    blocks = np.kron(rng.integers(20, 220, (height // 8 + 1, width // 8 + 1, 3)), np.ones((8, 8, 1)))
    return Image.fromarray((blocks + rng.integers(-20, 20, blocks.shape))[:height, :width].astype(np.uint8))


def same(first: Image.Image, second: Image.Image) -> bool:
    return first.mode == second.mode and first.size == second.size and first.tobytes() == second.tobytes()


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Return the Kolmogorov-Smirnov distance of two samples."""
    values = np.union1d(first, second)
    below = [np.searchsorted(np.sort(sample), values, side="right") / len(sample) for sample in (first, second)]
    return float(np.abs(below[0] - below[1]).max())


@given(augmentations, keys, st.integers(0, 2**31), st.integers(0, 99), sides, sides)
def test_a_view_fits_its_image_and_survives_storage_bit_for_bit(augmentation, key, seed, view, width, height):
    sampled = sample_view(augmentation, seed, key, view, width, height)
    top, left, h, w = sampled.crop
    assert top >= 0 and left >= 0 and h >= 1 and w >= 1 and top + h <= height and left + w <= width
    assert (sampled.ops is None) == (augmentation.randaugment is None)
    assert View.from_json(sampled.to_json()) == sampled
    stored = json.dumps({"param_aug": [sampled.to_list(), sampled.to_list()]})
    assert parse_views(json.loads(stored)["param_aug"]) == [sampled, sampled]
    assert parse_views(json.dumps(json.loads(stored)["param_aug"])) == [sampled, sampled]


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), keys, st.integers(0, 30))
def test_replay_of_a_stored_view_gives_the_same_pixels(seed, key, view):
    image = picture()
    sampled = sample_view(Augmentation(), seed, key, view, *image.size)
    assert same(render(image, sampled, 64), render(image, View.from_json(sampled.to_json()), 64))


def test_views_do_not_depend_on_order_or_other_views():
    names = [f"{number:05d}" for number in range(200)]
    in_order = {(name, v): sample_view(Augmentation(), 1, name, v, 640, 480) for name in names for v in range(3)}
    shuffled = list(in_order)
    random.Random(0).shuffle(shuffled)
    for name, view in shuffled:
        assert sample_view(Augmentation(), 1, name, view, 640, 480) == in_order[name, view]


def test_seed_key_and_view_number_each_change_the_view():
    views = {
        sample_view(Augmentation(), seed, key, view, 1000, 1000)
        for seed in (0, 1, 11)
        for key in ("1", "11", "0/1", "1/0")
        for view in (0, 1, 11)
    }
    assert len(views) == 3 * 4 * 3


def test_views_of_this_version_do_not_change():
    # Stored datasets depend on these numbers, so a change needs a new code version of the stage.
    first = sample_view(Augmentation(), 0, "00000000", 0, 640, 480)
    assert first.to_list() == [[0, 73, 480, 492], [[7, -0.27], [4, 30.453172205438065]]]
    second = sample_view(Augmentation(), 7, "dir.x/0001", 3, 96, 96)
    assert second.to_list() == [[0, 19, 67, 62], [[7, -0.27], [5, 9.0]]]


@pytest.mark.parametrize(("width", "height"), [(640, 480), (200, 300), (1000, 90), (60, 700)])
def test_crops_are_distributed_as_in_torchvision(width, height):
    torch.manual_seed(0)
    image = Image.new("RGB", (width, height))
    theirs = np.array(
        [RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)], dtype=float
    )
    ours = np.array([sample_view(Augmentation(), 0, str(n), 0, width, height).crop for n in range(3000)], dtype=float)
    for column in range(4):
        assert distance(ours[:, column], theirs[:, column]) < 1.95 * (2 / 3000) ** 0.5  # the 0.1 % point
    assert abs(np.corrcoef(ours[:, 2], ours[:, 3])[0, 1] - np.corrcoef(theirs[:, 2], theirs[:, 3])[0, 1]) < 0.06


def test_operations_signs_and_pairs_are_uniform():
    drawn = [sample_view(Augmentation(), 0, str(n), 0, 100, 100).ops for n in range(14 * 14 * 40)]
    pairs = np.zeros((14, 14))
    for (first, _), (second, _) in drawn:
        pairs[first, second] += 1
    chi_square = ((pairs - 40) ** 2 / 40).sum()
    assert 120 < chi_square < 290  # 195 degrees of freedom: mean 195, deviation 20
    rotations = [magnitude for ops in drawn for op, magnitude in ops if OPERATIONS[op] == "Rotate"]
    assert {abs(r) for r in rotations} == {9.0}
    assert 0.45 < np.mean([r < 0 for r in rotations]) < 0.55


@pytest.mark.parametrize(("magnitude", "bins"), [(9, 31), (0, 31), (30, 31), (5, 11)])
def test_magnitudes_equal_those_of_torchvision(magnitude, bins):
    theirs = TorchRandAugment(magnitude=magnitude, num_magnitude_bins=bins)._augmentation_space(bins, (224, 224))
    assert tuple(theirs) == OPERATIONS
    augmentation = Augmentation(randaugment=RandAugment(magnitude=magnitude, bins=bins))
    seen = set()
    for number in range(600):
        for op, ours in sample_view(augmentation, 0, str(number), 0, 50, 50).ops:
            magnitudes, signed = theirs[OPERATIONS[op]]
            expected = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
            assert (abs(ours) if signed else ours) == pytest.approx(expected, rel=1e-6, abs=1e-6)
            seen.add((op, ours < 0))
    assert len(seen) == (14 + 9 if magnitude else 14)


@pytest.mark.parametrize("op", range(14))
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", [9, 30])
def test_each_operation_gives_the_pixels_of_torchvision(op, sign, magnitude):
    name = OPERATIONS[op]
    magnitudes, signed = TorchRandAugment()._augmentation_space(31, (224, 224))[name]
    value = float(magnitudes[magnitude]) if magnitudes.ndim else 0.0
    value *= sign if signed else 1
    image = picture(300, 260)
    crop = (11, 7, 201, 233)
    cropped = F.resized_crop(image, *crop, [224, 224], F.InterpolationMode.BICUBIC)
    expected = _apply_op(cropped, name, value, F.InterpolationMode.NEAREST, None)
    assert same(render(image, View(crop, ((op, value),)), 224), expected)


@pytest.mark.parametrize("name", ["TranslateX", "TranslateY"])
def test_translations_scale_with_the_size(name):
    image = Image.new("RGB", (448, 448), "white")
    view = View((0, 0, 448, 448), ((OPERATIONS.index(name), 30.45),))
    for size, moved in ((224, 30), (448, 60), (112, 15), (384, 52)):
        pixels = np.asarray(render(image, view, size))[..., 0]
        line = pixels[0] if name == "TranslateX" else pixels[:, 0]
        assert (line == 0).sum() == moved and not line[:moved].any()


def test_every_size_is_rendered_from_the_original_image():
    # Fine stripes are visible in a crop of the original, and lost in a crop of a 32-pixel copy.
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    view = View((0, 0, 256, 256), None)
    assert np.asarray(render(Image.fromarray(stripes), view, 256)).std() > 120
    enlarged = render(Image.fromarray(stripes), view, 32).resize((256, 256))
    assert np.asarray(enlarged).std() < 10


def test_operations_are_applied_in_order():
    image = picture()
    posterize, brightness = (OPERATIONS.index("Posterize"), 4.0), (OPERATIONS.index("Brightness"), 0.27)
    crop = (0, 0, 97, 131)
    once = render(image, View(crop, (posterize, brightness)), 64)
    assert not same(once, render(image, View(crop, (brightness, posterize)), 64))


def test_a_view_of_another_image_is_refused():
    view = sample_view(Augmentation(scale=(0.9, 1.0)), 0, "a", 0, 131, 97)
    with pytest.raises(ShardError, match=r"does not fit an image of 65 x 48 pixels.*resized"):
        render(picture().resize((65, 48)), view, 32)


@pytest.mark.parametrize(
    "value",
    [
        "{}",
        7,
        [[1, 2, 3]],
        [[[0, 0, 5], None]],
        [[[0, 0, 5, 5], [[14, 0.0]]]],
        [[[0, 0, 5, 5], [[3]]]],
        [[[0, 0, 0, 5], None]],
        [[[-1, 0, 5, 5], None]],
        [[[0.5, 0, 5, 5], None]],
        [[[0, 0, 5, 5], [[1, float("nan")]]]],
        [[[0, 0, 5, float("inf")], None]],
        [[[0, 0, 5, 5], [[10, 9.0]]]],
        [[[0, 0, 5, 5], [[10, 0.5]]]],
        [[[0, 0, 5, 5], [[3, 1e308]]]],
        [[[0, 0, 5, 5], [[4, -2e6]]]],
        [[[0, 0, 5, 5], [[0, 0.0]] * 15]],
        "[" * 100_000,
        "not json",
    ],
)
def test_malformed_views_are_refused(value):
    with pytest.raises(ValueError):
        parse_views(value)


@pytest.mark.parametrize("op", range(14))
def test_every_accepted_magnitude_can_be_rendered(op):
    for magnitude in (1.0, 8.9) if OPERATIONS[op] == "Posterize" else (-1e6, -0.5, 0.0, 999_999.0):
        (view,) = parse_views([[[0, 0, 9, 9], [[op, magnitude]]]])
        for translation in ("scaled", "pixels"):
            assert render(picture(), view, 384, translation=translation).size == (384, 384)


@pytest.mark.parametrize(
    "fields",
    [
        {"scale": (0.5, 0.1)},
        {"scale": (0.0, 1.0)},
        {"ratio": (2.0, 1.0)},
        {"randaugment": {"magnitude": 31}},
        {"flip": True},
    ],
)
def test_impossible_settings_are_refused(fields):
    with pytest.raises(ValidationError):
        Augmentation(**fields)

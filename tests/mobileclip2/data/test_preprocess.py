import io
import subprocess
import sys

import numpy as np
import pytest
import torch
from open_clip.transform import image_transform
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as F

from mobileclip2.data import preprocess
from mobileclip2.data.preprocess import CLIP_MEAN, CLIP_STD, Preprocess


@pytest.mark.parametrize("shape", [(80, 48), (33, 90), (32, 32)])
@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_whole_images_are_preprocessed_as_in_open_clip(shape, resize):
    image = Image.effect_noise(shape, 90).convert("RGB")
    theirs = image_transform(32, is_train=False, mean=CLIP_MEAN, std=CLIP_STD, resize_mode=resize)
    torch.testing.assert_close(Preprocess(32, resize=resize).whole(image), theirs(image))


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Return blocks of random colors with noise."""
    random = np.random.default_rng(seed)
    blocks = np.kron(random.integers(0, 256, (height // 5 + 1, width // 5 + 1, 3)), np.ones((5, 5, 1)))
    noisy = blocks[:height, :width] + random.integers(-20, 20, (height, width, 3))
    return Image.fromarray(noisy.clip(0, 255).astype(np.uint8))


def torchvisions(image: Image.Image, size: int, interpolation: str) -> Image.Image:
    return F.center_crop(F.resize(image, [size], InterpolationMode(interpolation)), [size, size])


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_center_crops_of_ordinary_images_equal_torchvision_bit_for_bit(interpolation):
    random = np.random.default_rng(0)
    for seed, (width, height) in enumerate(random.integers(1, 500, (60, 2)).tolist()):
        image, size = photo(width, height, seed), (32, 48, 224)[seed % 3]
        expected = torchvisions(image, size, interpolation)
        square = Preprocess(size, interpolation=interpolation).center(image)
        assert square.tobytes() == expected.tobytes(), (width, height, size)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(3001, 7), (7, 3001), (900, 2), (2, 900), (1200, 80), (80, 1200), (700, 1)])
def test_center_crops_of_thin_images_equal_torchvision_up_to_rounding(shape, interpolation, monkeypatch):
    image = photo(*shape)
    expected = np.asarray(torchvisions(image, 48, interpolation)).astype(int)
    monkeypatch.setattr(preprocess, "MAX_RESIZED_PIXELS", 0)
    difference = np.abs(np.asarray(Preprocess(48, interpolation=interpolation).center(image)) - expected)
    if shape[0] >= shape[1]:
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01
    else:  # Pillow chooses another order of the axes
        assert (difference > 1).mean() < 0.1 and difference.mean() < 0.5


PEAK = """
import io, sys
import numpy as np
from PIL import Image
from mobileclip2.data.image import decode
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.export.shipped import pixels

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) // 1024

Preprocess(224).whole(decode(open(sys.argv[1], "rb").read()))
before = peak()
for path in sys.argv[2:]:
    for interpolation in ("bicubic", "bilinear"):
        model = Preprocess(224, interpolation=interpolation)
        image = decode(open(path, "rb").read())
        model.whole(image)
        Preprocess(224, interpolation=interpolation, resize="squash").whole(image)
        pixels.preprocess(np.asarray(image), **model.conventions())
print(peak() - before)
"""


def test_a_thin_image_takes_little_memory(tmp_path):
    paths = []
    for width, height, form in [
        (64, 64, "PNG"),  # a first image, so that imports do not count
        (30_000, 2, "PNG"),
        (2, 30_000, "PNG"),
        (65_000, 1, "JPEG"),
        (1, 16_383, "WEBP"),
        (1_000_000, 3, "PNG"),
        (1, 1, "PNG"),
    ]:
        file = io.BytesIO()
        Image.new("RGB", (width, height), (9, 99, 199)).save(file, form)
        paths.append(tmp_path / f"{width}x{height}")
        paths[-1].write_bytes(file.getvalue())
    assert paths[1].stat().st_size < 300
    run = subprocess.run([sys.executable, "-c", PEAK, *map(str, paths)], capture_output=True, text=True, check=True)
    assert int(run.stdout) < 500, f"{run.stdout.strip()} MiB"


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_conventions_are_plain_json(interpolation):
    assert Preprocess(48, mean=(0.1, 0.2, 0.3), interpolation=interpolation).conventions() == {
        "size": 48,
        "mean": [0.1, 0.2, 0.3],
        "std": list(Preprocess(48).std),
        "interpolation": interpolation,
    }

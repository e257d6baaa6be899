"""Views: a crop and the RandAugment operations of an image, in the format of the released datasets.

A view is ``[[top, left, height, width], [[op, magnitude], [op, magnitude]]]``. The operations are ``null`` if RandAugment
is off. The crop is in pixels of the original image, so that a view can be rendered at any size. Translations are in pixels
of a view of 224 pixels.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Self

from PIL import Image, ImageEnhance, ImageOps

from mobileclip2.config.augmentation import Augmentation, RandAugment, Translation
from mobileclip2.data.bounded_json import load_json
from mobileclip2.errors import ShardError

REFERENCE_SIZE = 224
"""side in pixels of the view that stored translations refer to, as the format defines it"""


def _affine(image: Image.Image, *matrix: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST, fillcolor=0)


_APPLY: dict[str, Callable[[Image.Image, float], Image.Image]] = {
    "Identity": lambda image, _: image,
    "ShearX": lambda image, magnitude: _affine(image, 1, magnitude, 0, 0, 1, 0),
    "ShearY": lambda image, magnitude: _affine(image, 1, 0, 0, magnitude, 1, 0),
    "TranslateX": lambda image, magnitude: _affine(image, 1, 0, -int(magnitude), 0, 1, 0),
    "TranslateY": lambda image, magnitude: _affine(image, 1, 0, 0, 0, 1, -int(magnitude)),
    "Rotate": lambda image, magnitude: image.rotate(magnitude, Image.Resampling.NEAREST, fillcolor=0),
    "Brightness": lambda image, magnitude: ImageEnhance.Brightness(image).enhance(1 + magnitude),
    "Color": lambda image, magnitude: ImageEnhance.Color(image).enhance(1 + magnitude),
    "Contrast": lambda image, magnitude: ImageEnhance.Contrast(image).enhance(1 + magnitude),
    "Sharpness": lambda image, magnitude: ImageEnhance.Sharpness(image).enhance(1 + magnitude),
    "Posterize": lambda image, magnitude: ImageOps.posterize(image, int(magnitude)),
    "Solarize": lambda image, magnitude: ImageOps.solarize(image, math.ceil(magnitude)),
    "AutoContrast": lambda image, _: ImageOps.autocontrast(image),
    "Equalize": lambda image, _: ImageOps.equalize(image),
}
"""RandAugment operations in the order of their stored index"""

OPERATIONS = tuple(_APPLY)

_MAX_MAGNITUDE = {
    **dict.fromkeys(("ShearX", "ShearY"), 0.3),
    **dict.fromkeys(("TranslateX", "TranslateY"), 150 / 331 * REFERENCE_SIZE),
    "Rotate": 30.0,
    **dict.fromkeys(("Brightness", "Color", "Contrast", "Sharpness"), 0.9),
}

MAX_OPS = 14
"""maximum number of operations of a view, as in the profile"""

_MAGNITUDES = tuple((1, 9) if name == "Posterize" else (-1e6, 1e6) for name in OPERATIONS)
"""lower bound of a stored magnitude, and the bound above it, by operation: Pillow renders every magnitude in between"""


@dataclass(frozen=True, slots=True)
class View:
    """A view of an image: ``crop`` is (top, left, height, width), ``ops`` are (index, magnitude) or None."""

    crop: tuple[int, int, int, int]
    ops: tuple[tuple[int, float], ...] | None

    def to_list(self) -> list[Any]:
        """Return the view as nested lists."""
        return [list(self.crop), None if self.ops is None else [list(op) for op in self.ops]]

    def to_json(self) -> str:
        """Serialize the view as JSON."""
        return json.dumps(self.to_list())

    @classmethod
    def from_list(cls, value: Any) -> Self:
        """Build a view from nested lists.

        Raises:
            ValueError: the value is not a view.
        """
        try:
            (top, left, height, width), ops = value
            crop = _integer(top), _integer(left), _integer(height), _integer(width)
            stored = None if ops is None else tuple([(_integer(op), float(magnitude)) for op, magnitude in ops])
        except (TypeError, ValueError, OverflowError) as error:
            expected = "[[top,left,h,w], [[op,magnitude],...]]"
            raise ValueError(f"not a view: {str(value)[:200]}; expected {expected}") from error
        if crop[0] < 0 or crop[1] < 0 or crop[2] < 1 or crop[3] < 1:
            raise ValueError(f"not a view: crop {crop} has a negative corner or no area")
        if stored and len(stored) > MAX_OPS:
            raise ValueError(f"not a view: {len(stored)} operations; at most {MAX_OPS}")
        for op, magnitude in stored or ():
            if not 0 <= op < len(OPERATIONS):
                raise ValueError(f"not a view: operation {op}; operations are 0 to {len(OPERATIONS) - 1}")
            low, high = _MAGNITUDES[op]
            if not low <= magnitude < high:
                known = f"at least {low:,.0f} and below {high:,.0f}"
                raise ValueError(f"not a view: {OPERATIONS[op]} with magnitude {magnitude:g}; it must be {known}")
        return cls(crop, stored)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Parse the JSON text of :meth:`to_json`."""
        return cls.from_list(load_json(text.encode()))

    def check_inside(self, width: int, height: int) -> None:
        """Raise ``ValueError`` if the crop leaves an image of ``width`` x ``height`` pixels."""
        if self.crop[1] + self.crop[3] > width or self.crop[0] + self.crop[2] > height:
            raise ValueError(f"crop {list(self.crop)} leaves the image of {width} x {height} pixels")


def parse_views(value: Any) -> list[View]:
    """Parse the views of a ``param_aug`` field: a list, or the JSON text of a list.

    Raises:
        ValueError: the value is not a list, or a view is malformed.
    """
    views = load_json(value.encode()) if isinstance(value, str) else value
    if not isinstance(views, list):
        raise ValueError(f"param_aug is not a list of views: {str(views)[:200]}")
    return [View.from_list(view) for view in views]


def sample_view(augmentation: Augmentation, seed: int, key: str, view: int, width: int, height: int) -> View:
    """Sample view number ``view`` of the sample ``key`` with an image of ``width`` x ``height`` pixels.

    The result depends only on the arguments, not on the order of samples or the number of workers. The distribution is
    that of torchvision's RandomResizedCrop and RandAugment.
    """
    draw = _uniform(f"{seed}/{view}", key)
    crop = _crop(augmentation, draw, width, height)
    randaugment = augmentation.randaugment
    if randaugment is None:
        return View(crop, None)
    return View(crop, tuple(_operation(randaugment, draw) for _ in range(randaugment.ops)))


def render(
    image: Image.Image, view: View, size: int, interpolation: str = "bicubic", translation: Translation = "scaled"
) -> Image.Image:
    """Render a view of the original RGB image at ``size`` x ``size`` pixels.

    Scaled translations give the same view at every size, so teachers of different sizes see the same.

    Raises:
        ShardError: the crop does not fit the image.
    """
    resized = cropped(image, view).resize((size, size), Image.Resampling[interpolation.upper()])
    return operate(resized, view, translation)


def cropped(image: Image.Image, view: View) -> Image.Image:
    """Crop the original image to a view.

    Raises:
        ShardError: the crop does not fit the image.
    """
    top, left, height, width = view.crop
    if left + width > image.width or top + height > image.height:
        raise ShardError(
            f"the crop {list(view.crop)} does not fit an image of {image.width} x {image.height} pixels: "
            "crops are in pixels of the original image, and this image was resized or replaced. Delete the views and run again"
        )
    return image.crop((left, top, left + width, top + height))


def operate(image: Image.Image, view: View, translation: Translation = "scaled") -> Image.Image:
    """Apply the operations of a view to its resized crop."""
    for op, magnitude in view.ops or ():
        name = OPERATIONS[op]
        if translation == "scaled" and name in ("TranslateX", "TranslateY"):
            magnitude = magnitude * image.width / REFERENCE_SIZE
        image = _APPLY[name](image, magnitude)
    return image


def _integer(value: Any) -> int:
    if int(value) != value:
        raise ValueError(f"{value} is not a whole number")
    return int(value)


def _uniform(stream: str, key: str) -> Iterator[float]:
    """Yield uniform numbers in [0, 1) from a hash, which is faster than seeding a generator for each view."""
    block = 0
    while True:
        # The key is last, because it can contain "/" and the other fields cannot.
        digest = hashlib.blake2b(f"{stream}/{block}/{key}".encode(), person=b"mobileclip2 view").digest()
        for start in range(0, 64, 8):
            yield (int.from_bytes(digest[start : start + 8], "little") >> 11) * 2.0**-53
        block += 1


def _crop(augmentation: Augmentation, draw: Iterator[float], width: int, height: int) -> tuple[int, int, int, int]:
    (smallest, largest), (narrow, wide) = augmentation.scale, augmentation.ratio
    low, high = math.log(narrow), math.log(wide)
    for _ in range(10):
        area = width * height * (smallest + next(draw) * (largest - smallest))
        ratio = math.exp(low + next(draw) * (high - low))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(next(draw) * (height - h + 1)), int(next(draw) * (width - w + 1)), h, w
    # Very long images fit no random crop, so torchvision takes the largest central crop with an allowed ratio.
    if width < height * narrow:
        w, h = width, max(1, round(width / narrow))
    elif width > height * wide:
        w, h = max(1, round(height * wide)), height
    else:
        w, h = width, height
    return (height - h) // 2, (width - w) // 2, h, w


def _operation(randaugment: RandAugment, draw: Iterator[float]) -> tuple[int, float]:
    op = int(next(draw) * len(OPERATIONS))
    name = OPERATIONS[op]
    share = randaugment.magnitude / (randaugment.bins - 1)
    negative = next(draw) < 0.5
    if name == "Posterize":
        return op, float(8 - round(4 * share))
    if name == "Solarize":
        return op, 255.0 * (1 - share)
    if name not in _MAX_MAGNITUDE:
        return op, 0.0
    magnitude = _MAX_MAGNITUDE[name] * share
    return op, -magnitude if negative else magnitude

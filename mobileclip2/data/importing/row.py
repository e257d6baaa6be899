"""A row of an import: one picture with its captions or its class."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from mobileclip2.data import image
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.caption_text import is_literal, is_placeholder, is_visible

EXTENSIONS = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
"""extension in a shard by Pillow's format; pictures of other formats are converted to PNG"""

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".jfif", ".avif")
"""endings of picture files, in lower case"""


@dataclass(frozen=True)
class Row:
    """One picture with its captions, its class, or both."""

    source: str
    """where the row comes from, for messages: a file, or a line of a table"""
    name: str
    """the same without folders of this machine, which a shard stores"""
    image: Path | bytes | None
    """a file, the content of one, or None if the row has no picture"""
    captions: tuple[str, ...] = ()
    label: str | None = None
    fault: BadSample | None = None
    """why the row cannot be used"""


Rows = Iterable[Row]
"""rows in a fixed order, which are read once"""


def captions_of(values: Iterable[object]) -> tuple[str, ...]:
    """Return the captions among the values of a row. None is no caption.

    Raises:
        BadSample: ``invalid-caption`` (a value is not a string).
    """
    captions = []
    for value in values:
        if isinstance(value, str):
            captions.append(value)
        elif value is not None:
            detail = f"the caption {str(value)[:40]} is of type {type(value).__name__}; write it as a string"
            raise BadSample("invalid-caption", detail)
    return tuple(captions)


def class_of(row: Row) -> str:
    """Return the class of a row in one line.

    Raises:
        BadSample: ``no-class`` (blank, a printed value such as ``nan``, or with control characters).
    """
    name = " ".join((row.label or "").split())
    if not is_visible(name):
        raise BadSample("no-class", "the row has no class")
    if is_placeholder(name) or is_literal(name):
        detail = "is not a name but a value that a program printed; write the name of the class in words"
        raise BadSample("no-class", f"'{name[:80]}' {detail}")
    if "\ufeff" in name or any(unicodedata.category(each) in ("Cc", "Cs") for each in name):
        raise BadSample(
            "no-class", f"{name[:80]!a} contains a character that is not text; correct the name of the class"
        )
    return name


def read_picture(picture: Path | bytes | None) -> tuple[str, bytes]:
    """Return the extension and the content of a picture as a shard stores it.

    The content determines the format. JPEG, PNG and WebP stay as they are. Other formats become PNG.

    Raises:
        BadSample: ``missing-image`` (no such file), or as :func:`mobileclip2.data.image.size`.
    """
    if picture is None:
        raise BadSample("missing-image", "the row names no picture")
    if isinstance(picture, Path):
        try:
            data = picture.read_bytes()
        except (OSError, ValueError) as error:  # a name with NUL or half of a surrogate pair is a ValueError
            raise BadSample("missing-image", f"{picture}: {getattr(error, 'strerror', error)}") from error
    else:
        data = picture
    try:
        with Image.open(io.BytesIO(data)) as opened:
            extension = EXTENSIONS.get(opened.format or "")
            if extension is None:
                opened.load()
                with io.BytesIO() as converted:
                    _eight_bits(opened).save(converted, "PNG")
                    return "png", converted.getvalue()
    except UnidentifiedImageError:
        image.size(data)  # raises the reason
        raise BadSample("not-an-image", f"{len(data):,} bytes that begin with {data[:16]!r}") from None
    except Image.DecompressionBombError as error:
        raise BadSample("image-too-large", str(error)) from error
    except (BadSample, MemoryError):
        raise
    except Exception as error:  # decoders raise arbitrary exceptions for damaged input
        raise BadSample("broken-image", f"{len(data):,} bytes that begin with {data[:16]!r}: {error}") from error
    image.size(data)
    return extension, data


def _eight_bits(opened: Image.Image) -> Image.Image:
    if opened.has_transparency_data:
        return opened.convert("RGBA")
    if opened.mode in ("I", "F"):  # 32 bits have no fixed range, and convert() rounds and clips to 255
        pixels = np.asarray(opened)
        low, high = pixels.min(), pixels.max()
        if not 0 <= low <= high <= 255 or (opened.mode == "F" and high <= 1):
            raise BadSample(
                "broken-image", f"32-bit pixels from {low} to {high}; save it with 8 or 16 bits for each color"
            )
        return opened.convert("RGB")
    return image.to_rgb(opened)

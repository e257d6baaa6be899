"""A row of an import: one picture with its captions or its class."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from PIL import Image, UnidentifiedImageError

from mobileclip2.data import image
from mobileclip2.data.bad_sample import BadSample

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


class Rows(Protocol):
    """Rows in a fixed order. Every iteration starts at the first row."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """Return what determines the rows, as JSON. Imports continue only with equal rows."""

    def __iter__(self) -> Iterator[Row]: ...


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
        except OSError as error:
            raise BadSample("missing-image", f"{picture}: {error.strerror}") from error
    else:
        data = picture
    try:
        with Image.open(io.BytesIO(data)) as opened:
            extension = EXTENSIONS.get(opened.format or "")
            if extension is None:
                opened.load()
                with io.BytesIO() as converted:
                    opened.convert("RGBA" if opened.has_transparency_data else "RGB").save(converted, "PNG")
                    return "png", converted.getvalue()
    except UnidentifiedImageError:
        image.size(data)  # raises the reason
        raise BadSample("not-an-image", f"{len(data):,} bytes that begin with {data[:16]!r}") from None
    except Image.DecompressionBombError as error:
        raise BadSample("image-too-large", str(error)) from error
    except (OSError, ValueError, SyntaxError) as error:
        raise BadSample("broken-image", f"{len(data):,} bytes that begin with {data[:16]!r}: {error}") from error
    image.size(data)
    return extension, data

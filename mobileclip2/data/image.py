"""Decode images to RGB. Every stage decodes in the same way, so that stored crops refer to the same pixels."""

from __future__ import annotations

import io
import re

import numpy as np
from PIL import Image, UnidentifiedImageError

from mobileclip2.config.filters import PILLOW_LIMIT
from mobileclip2.data.bad_sample import BadSample


def size(data: bytes) -> tuple[int, int]:
    """Return width and height in pixels from the header.

    Raises:
        BadSample: ``empty-image`` (0 bytes), ``not-an-image``, ``truncated-image``, ``broken-image`` (unreadable
            header), or ``image-too-large`` (above ``PILLOW_LIMIT``).
    """
    with _open(data) as image:
        return image.size


def decode(data: bytes, *, max_pixels: int = PILLOW_LIMIT) -> Image.Image:
    """Decode a JPEG, PNG, WebP, GIF or BMP to RGB. The content determines the format, not the file extension.

    Animations give their first frame. Transparent pixels are blended with white. 16-bit gray keeps its high byte. The EXIF
    orientation is ignored, because readers of the released format ignore it and crops refer to the unrotated image.

    Raises:
        BadSample: as for :func:`size`, or the pixels are damaged. ``image-too-large`` is raised before decoding if the
            image has more than ``max_pixels``.
    """
    with _open(data) as image:
        if image.width * image.height > max_pixels:
            raise BadSample("image-too-large", f"{image.width} x {image.height} pixels; at most {max_pixels:,} in all")
        try:
            _check_complete(image, data)
            image.load()
            return to_rgb(image)
        except (BadSample, MemoryError):
            raise
        except Exception as error:  # decoders raise arbitrary exceptions for damaged input
            raise _broken(data, error) from error


def opaque_copy(data: bytes) -> bytes | None:
    """Encode an image as an opaque PNG if other readers see other pixels than :func:`decode`, or return None.

    ``Image.convert("RGB")`` drops transparency and clips 16-bit gray. All readers see the same pixels in the copy.

    Raises:
        BadSample: as for :func:`decode`.
    """
    if data.startswith(b"\xff\xd8"):  # a JPEG has neither
        return None
    with _open(data) as image:
        if not image.mode.startswith("I") and not _has_transparent_pixels(image):
            return None
    target = io.BytesIO()
    decode(data).save(target, "PNG")
    return target.getvalue()


def _has_transparent_pixels(image: Image.Image) -> bool:
    return image.has_transparency_data and image.convert("RGBA").getchannel("A").getextrema() != (255, 255)


def _open(data: bytes) -> Image.Image:
    if not data:
        raise BadSample("empty-image", "the image has 0 bytes")
    try:
        return Image.open(io.BytesIO(data), formats=("JPEG", "PNG", "WEBP", "GIF", "BMP"))
    except MemoryError:
        raise
    except Image.DecompressionBombError as error:
        pixels = re.search(r"\d+", str(error))
        detail = f"{int(pixels[0]):,} pixels; at most {PILLOW_LIMIT:,} in all" if pixels else str(error)
        raise BadSample("image-too-large", detail) from error
    except UnidentifiedImageError as error:
        raise BadSample("not-an-image", f"{len(data):,} bytes that begin with {data[:16]!r}") from error
    except Exception as error:
        raise _broken(data, error) from error


def _check_complete(image: Image.Image, data: bytes) -> None:
    """Detect damage that decoders ignore and fill with gray or black."""
    # Most images end with the marker, so the slower search for the last scan is the exception.
    if (
        image.format in ("JPEG", "MPO")
        and not data.endswith(b"\xff\xd9")
        and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda")
    ):
        raise BadSample("truncated-image", f"the JPEG stops after {len(data):,} bytes without its end marker")
    if image.format == "PNG":
        with _open(data) as checksums:
            checksums.verify()


def _broken(data: bytes, error: Exception) -> BadSample:
    reason = "truncated-image" if "truncated" in str(error).lower() else "broken-image"
    return BadSample(reason, f"{len(data):,} bytes that begin with {data[:16]!r}: {error}")


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert an image to RGB as :func:`decode` does: transparency on white, the high byte of 16-bit gray."""
    if image.mode.startswith("I"):
        # convert() would clip values above 255 to white. Pillow keeps the high byte of 16-bit color too.
        return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        picture = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")
    return image if image.mode == "RGB" else image.convert("RGB")

"""Inputs of the comparison between a trained model and its export."""

import io
from types import SimpleNamespace

from PIL import Image

from mobileclip2.export.parity import inputs


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (width % 256, height % 256, 0)).save(file, "PNG")
    return file.getvalue()


def test_an_image_that_open_clip_cannot_resize_in_memory_is_not_compared():
    pictures = [png(30_000, 2), png(40, 30), png(2, 30_000), b"no image", png(200, 2)]
    samples = [SimpleNamespace(image=picture, fault=None, captions=["a picture"]) for picture in pictures]
    retrieval = SimpleNamespace(kind="retrieval", samples=lambda: iter(samples))
    assert list(inputs([retrieval], 0).images) == [pictures[1], pictures[4]]

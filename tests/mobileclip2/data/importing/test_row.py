from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.importing.row import read_picture
from tests.pictures import jpeg, picture


def encoded(kind: str, image: Image.Image | None = None) -> bytes:
    with io.BytesIO() as file:
        (image or picture(0)).save(file, kind)
        return file.getvalue()


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_formats_of_shards_stay_as_they_are(kind: str, extension: str, tmp_path: Path) -> None:
    data = encoded(kind)
    (tmp_path / "named.wrongly").write_bytes(data)
    assert read_picture(data) == read_picture(tmp_path / "named.wrongly") == (extension, data)


def test_other_formats_become_png_with_the_same_pixels() -> None:
    transparent = picture(0).convert("RGBA")
    transparent.putalpha(100)
    for kind, image in (("BMP", picture(0)), ("TIFF", transparent)):
        extension, data = read_picture(encoded(kind, image))
        assert extension == "png" and Image.open(io.BytesIO(data)).tobytes() == image.tobytes()


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "missing-image"), (Path("/nowhere.jpg"), "missing-image"), (b"text", "not-an-image")]
)
def test_what_is_no_picture_has_a_reason(content: Path | bytes | None, reason: str) -> None:
    with pytest.raises(BadSample) as raised:
        read_picture(content)
    assert raised.value.reason == reason


def test_a_truncated_header_is_no_picture() -> None:
    with pytest.raises(BadSample):
        read_picture(jpeg(0)[:10])

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mobileclip2.data import image
from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.importing.row import Row, class_of, read_picture
from tests.pictures import jpeg, picture


def encoded(kind: str, image: Image.Image | None = None) -> bytes:
    with io.BytesIO() as file:
        (image or picture(0)).save(file, kind)
        return file.getvalue()


@pytest.mark.parametrize(("kind", "extension"), [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
def test_formats_of_shards_are_not_converted(kind: str, extension: str, tmp_path: Path) -> None:
    data = encoded(kind)
    (tmp_path / "named.wrongly").write_bytes(data)
    assert read_picture(data) == read_picture(tmp_path / "named.wrongly") == (extension, data)


def test_other_formats_become_png_with_the_same_pixels() -> None:
    transparent = picture(0).convert("RGBA")
    transparent.putalpha(100)
    for kind, original in (("BMP", picture(0)), ("TIFF", transparent)):
        extension, data = read_picture(encoded(kind, original))
        assert extension == "png" and Image.open(io.BytesIO(data)).tobytes() == original.tobytes()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "missing-image"),
        (Path("/nowhere.jpg"), "missing-image"),
        (Path("a\0b.jpg"), "missing-image"),
        (Path("\ud800.jpg"), "missing-image"),
        (b"text", "not-an-image"),
    ],
)
def test_an_invalid_picture_has_a_reason(content: Path | bytes | None, reason: str) -> None:
    with pytest.raises(BadSample) as raised:
        read_picture(content)
    assert raised.value.reason == reason


def test_a_truncated_header_is_a_bad_sample() -> None:
    with pytest.raises(BadSample):
        read_picture(jpeg(0)[:10])


@pytest.mark.parametrize("kind", ["TIFF", "JPEG2000"])
def test_16_bit_gray_keeps_its_high_byte(kind: str) -> None:
    pixels = np.arange(32 * 32, dtype=np.uint16).reshape(32, 32) * 60
    _, data = read_picture(encoded(kind, Image.fromarray(pixels)))
    assert np.array_equal(np.asarray(image.decode(data))[..., 0], pixels >> 8)


@pytest.mark.parametrize(
    ("dtype", "highest", "usable"),
    [("int32", 255, True), ("int32", 256, False), ("float32", 1e9, False), ("float32", 1.0, False)],
)
def test_pixels_of_32_bits_are_not_clipped(dtype: str, highest: float, usable: bool) -> None:
    data = encoded("TIFF", Image.fromarray(np.linspace(0, highest, 64).reshape(8, 8).astype(dtype)))
    if usable:
        assert image.decode(read_picture(data)[1]).getextrema()[0] == (0, 255)
    else:
        with pytest.raises(BadSample, match="broken-image: 32-bit pixels from"):
            read_picture(data)


@pytest.mark.parametrize("error", [RuntimeError, NotImplementedError, KeyError])
def test_every_decoder_error_is_a_bad_sample(error: type[Exception], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(self: Image.Image) -> None:
        raise error("damaged")

    data = encoded("BMP")
    monkeypatch.setattr("PIL.BmpImagePlugin.BmpImageFile.load", load)
    with pytest.raises(BadSample, match=r"broken-image: .*damaged"):
        read_picture(data)


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("tabby\n cat ", "tabby cat"),
        ("golden_retriever", "golden_retriever"),
        (None, None),
        (" ", None),
        ("\u200b", None),
        ("nan", None),
        ("['cat', 'dog']", None),
        ("a\0b", None),
        ("caf\udce9", None),
    ],
)
def test_a_class_is_one_line_of_text(label: str | None, name: str | None) -> None:
    row = Row("x.csv, row 1", "row 1", None, label=label)
    if name:
        assert class_of(row) == name
    else:
        with pytest.raises(BadSample, match="no-class"):
            class_of(row)

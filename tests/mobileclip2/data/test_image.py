"""Decoding of all image formats, and reasons of damaged images."""

import io
import struct
import time
import tracemalloc
import zlib

import numpy as np
import pytest
from PIL import Image, ImageFile

from mobileclip2.data.image import BadSample, decode, opaque_copy, size


def encode(image: Image.Image, form: str, **options) -> bytes:
    target = io.BytesIO()
    image.save(target, form, **options)
    return target.getvalue()


def photo(width: int = 64, height: int = 48) -> Image.Image:
    rng = np.random.default_rng(0)
    blocks = np.kron(rng.integers(0, 255, (height // 8, width // 8, 3)), np.ones((8, 8, 1)))
    return Image.fromarray(blocks.astype(np.uint8))


def one_bit_png(width: int, height: int) -> bytes:
    """Create a valid bilevel PNG of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = zlib.compressobj(1)
    rows = b"".join(row.compress(bytes(1 + (width + 7) // 8)) for _ in range(height)) + row.flush()
    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def refusal(data: bytes, **options) -> tuple[str, str]:
    with pytest.raises(BadSample) as caught:
        decode(data, **options)
    return caught.value.reason, caught.value.detail


def pixel(data: bytes, at: tuple[int, int] = (0, 0)) -> tuple[int, ...]:
    image = decode(data)
    assert image.mode == "RGB"
    value = image.getpixel(at)
    assert isinstance(value, tuple)
    return value


FORMS = {
    "jpeg": encode(photo(), "JPEG", quality=90),
    "progressive jpeg": encode(photo(), "JPEG", progressive=True),
    "cmyk jpeg": encode(photo().convert("CMYK"), "JPEG"),
    "png": encode(photo(), "PNG"),
    "webp": encode(photo(), "WEBP"),
    "lossless webp": encode(photo(), "WEBP", lossless=True),
    "animated webp": encode(photo(), "WEBP", save_all=True, append_images=[photo().rotate(180)]),
    "gif": encode(photo(), "GIF"),
    "bmp": encode(photo(), "BMP"),
}


@pytest.mark.parametrize("form", FORMS)
def test_each_format_decodes_to_rgb_of_its_own_size(form):
    image = decode(FORMS[form])
    assert (image.mode, image.size) == ("RGB", (64, 48)) == ("RGB", size(FORMS[form]))
    error = np.asarray(image, float) - np.asarray(photo(), float)
    assert np.abs(error).mean() < 30


@pytest.mark.parametrize("form", FORMS)
def test_truncated_images_are_refused_and_never_filled_up(form):
    data = FORMS[form]
    for cut in [*range(1, len(data), max(1, len(data) // 60)), len(data) - 2, len(data) - 1]:
        try:
            image = decode(data[:cut])
        except BadSample as bad:
            assert bad.reason in ("truncated-image", "broken-image", "not-an-image")
        else:
            assert image.tobytes() == decode(data).tobytes()


@pytest.mark.parametrize("form", ["jpeg", "progressive jpeg", "cmyk jpeg"])
@pytest.mark.parametrize("lenient", [False, True])
def test_a_truncated_jpeg_is_refused_where_pillow_would_fill_it_up(form, lenient, monkeypatch):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    half = FORMS[form][: len(FORMS[form]) * 3 // 4]
    assert refusal(half)[0] == "truncated-image"
    assert refusal(half + bytes(len(half)))[0] == "truncated-image"


def test_a_damaged_png_is_refused_where_pillow_would_leave_it_black():
    noise = np.random.default_rng(0).integers(0, 9, (96, 128, 3), dtype=np.uint8)
    whole = encode(Image.fromarray(np.asarray(photo(128, 96)) // 2 + noise), "PNG")
    holed = whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)
    with Image.open(io.BytesIO(holed)) as unchecked:
        assert not np.asarray(unchecked)[-20:].any()
    assert refusal(holed)[0] == "broken-image"


def test_empty_data_and_non_images_have_different_reasons():
    assert refusal(b"") == ("empty-image", "the image has 0 bytes")
    reason, detail = refusal(b"<!DOCTYPE html><html>not found</html>")
    assert reason == "not-an-image" and "37 bytes that begin with b'<!DOCTYPE html><'" in detail
    with pytest.raises(BadSample, match="empty-image"):
        size(b"")


def test_formats_that_shards_do_not_support_are_refused():
    assert refusal(encode(photo(), "TIFF"))[0] == "not-an-image"
    assert refusal(encode(photo(), "PPM"))[0] == "not-an-image"
    assert refusal(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")[0] == "not-an-image"


def test_a_decompression_bomb_is_refused_cheaply_from_its_header():
    data = one_bit_png(20_000, 20_000)
    tracemalloc.start()
    start = time.process_time()
    assert refusal(data) == ("image-too-large", "400,000,000 pixels; at most 89,478,485 in all")
    assert time.process_time() - start < 0.5
    assert tracemalloc.get_traced_memory()[1] < 5_000_000
    tracemalloc.stop()


def test_the_caller_sets_the_limit_on_pixels():
    data = one_bit_png(300, 200)
    assert decode(data, max_pixels=60_000).size == (300, 200)
    detail = "300 x 200 pixels; at most 59,999 in all"
    assert refusal(data, max_pixels=59_999) == ("image-too-large", detail)


def test_cmyk_keeps_its_colors():
    for color in ((255, 0, 0), (0, 128, 255), (255, 255, 255), (0, 0, 0)):
        data = encode(Image.new("RGB", (16, 16), color).convert("CMYK"), "JPEG", quality=100)
        assert np.abs(np.subtract(pixel(data), color)).max() <= 4


def test_palettes_are_converted_and_transparent_entries_become_white():
    image = Image.new("P", (4, 4), 1)
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((0, 0), 0)
    opaque, transparent = encode(image, "PNG"), encode(image, "PNG", transparency=0)
    assert pixel(opaque) == (10, 20, 30) and pixel(opaque, (1, 1)) == (200, 100, 50)
    assert pixel(transparent) == (255, 255, 255) and pixel(transparent, (1, 1)) == (200, 100, 50)


@pytest.mark.parametrize(("value", "expected"), [(0, 0), (256, 1), (0x1234, 0x12), (32768, 128), (65535, 255)])
def test_sixteen_bit_gray_is_scaled_and_not_clipped(value, expected):
    data = encode(Image.fromarray(np.full((4, 4), value, np.uint16)), "PNG")
    assert Image.open(io.BytesIO(data)).mode.startswith("I")
    assert pixel(data) == (expected,) * 3


def test_transparent_pixels_are_blended_with_white():
    assert pixel(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 0)), "PNG")) == (255, 255, 255)
    assert pixel(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 255)), "PNG")) == (255, 0, 0)
    assert pixel(encode(Image.new("RGBA", (4, 4), (255, 0, 0, 128)), "PNG")) == (255, 127, 127)
    assert pixel(encode(Image.new("LA", (4, 4), (0, 128)), "PNG")) == (127, 127, 127)
    assert pixel(encode(Image.new("RGBA", (4, 4), (0, 0, 255, 0)), "WEBP", lossless=True)) == (255, 255, 255)
    assert pixel(encode(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3))) == (
        255,
        255,
        255,
    )


def test_gray_and_bilevel_become_rgb():
    assert pixel(encode(Image.new("L", (4, 4), 77), "JPEG", quality=100)) == (77, 77, 77)
    assert pixel(encode(Image.new("1", (4, 4), 1), "PNG")) == (255, 255, 255)


@pytest.mark.parametrize("form", ["WEBP", "GIF", "PNG"])
def test_an_animation_decodes_to_its_first_frame(form):
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    data = encode(
        frames[0],
        form,
        save_all=True,
        append_images=frames[1:],
        **({"lossless": True} if form == "WEBP" else {}),
    )
    assert pixel(data) == (255, 0, 0)


def test_exif_orientation_is_ignored():
    image = photo(64, 32)
    exif = Image.Exif()
    exif[0x0112] = 6
    rotated = encode(image, "JPEG", exif=exif)
    assert size(rotated) == decode(rotated).size == (64, 32)
    assert decode(rotated).tobytes() == decode(encode(image, "JPEG")).tobytes()


def test_a_jpeg_with_a_thumbnail_or_a_trailer_is_complete():
    data = FORMS["jpeg"]
    assert decode(data + b"\0trailer of some camera").tobytes() == decode(data).tobytes()
    exif = b"Exif\0\0" + data  # an end marker in the header must not count
    thumbnail = data[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + data[2:]
    assert decode(thumbnail).tobytes() == decode(data).tobytes()
    assert refusal(thumbnail[: len(thumbnail) - len(data) // 4])[0] == "truncated-image"


def test_a_one_pixel_image_decodes():
    assert decode(encode(Image.new("RGB", (1, 1), "red"), "PNG")).size == (1, 1)


def half_transparent(mode: str) -> Image.Image:
    """Return an image whose left half is transparent. The transparent pixels keep their colors."""
    image = photo().convert(mode)
    image.putalpha(Image.fromarray(np.repeat([[0] * 32 + [200] * 16 + [255] * 16], 48, 0).astype(np.uint8)))
    return image


def palette(transparency: object) -> bytes:
    image = photo().quantize(4)
    return encode(image, "PNG", transparency=transparency)


OTHERWISE_READ = {
    "rgba png": encode(half_transparent("RGB"), "PNG"),
    "gray with alpha png": encode(half_transparent("L"), "PNG"),
    "transparent color png": encode(Image.new("RGB", (4, 4), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
    "transparent gray png": encode(Image.new("L", (4, 4), 9), "PNG", transparency=9),
    "palette png": palette(1),
    "palette png with alphas": palette(bytes([255, 90, 0, 255])),
    "gif": encode(photo().quantize(4), "GIF", transparency=2),
    "webp": encode(half_transparent("RGB"), "WEBP", quality=80),
    "lossless webp": encode(half_transparent("RGB"), "WEBP", lossless=True, exact=True),
    "animated webp": encode(half_transparent("RGB"), "WEBP", save_all=True, append_images=[half_transparent("RGB")]),
    "animated png": encode(half_transparent("RGB"), "PNG", save_all=True, append_images=[half_transparent("L")]),
    "16-bit gray png": encode(Image.fromarray(np.arange(0, 64_000, 1000, np.uint16).reshape(8, 8)), "PNG"),
}


def plainly(data: bytes) -> np.ndarray:
    """Read an image as the released training code does."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("form", OTHERWISE_READ)
def test_an_opaque_copy_has_the_pixels_of_decode_for_every_reader(form):
    data = OTHERWISE_READ[form]
    assert not np.array_equal(plainly(data), np.asarray(decode(data)))
    copy = opaque_copy(data)
    assert copy is not None and Image.open(io.BytesIO(copy)).format == "PNG" and copy == opaque_copy(data)
    assert np.array_equal(plainly(copy), np.asarray(decode(data))) and decode(copy).tobytes() == decode(data).tobytes()
    assert opaque_copy(copy) is None


ALPHA_WITHOUT_TRANSPARENCY = {
    "rgba png": encode(photo().convert("RGBA"), "PNG"),
    "webp": encode(photo().convert("RGBA"), "WEBP"),
    "transparent color that is absent": encode(photo(), "PNG", transparency=(1, 2, 3)),
    "palette png with full alphas": palette(bytes([255] * 4)),
}


@pytest.mark.filterwarnings("ignore:Palette images with Transparency")
@pytest.mark.parametrize("data", [*FORMS.values(), *ALPHA_WITHOUT_TRANSPARENCY.values()])
def test_an_image_without_transparent_pixels_needs_no_copy(data):
    assert opaque_copy(data) is None
    assert np.array_equal(plainly(data), np.asarray(decode(data)))

"""Small pictures in the metadata of materializations: sheets, and previews that Dagster shows at once."""

from __future__ import annotations

import base64
import io
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from math import isfinite
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from mobileclip2.extras import needs
from mobileclip2.report.palette import GRID, INK, MUTED, PAPER, series

MAX_BYTES = 44_000
"""maximum size of a sheet: below 60 kB as base64, because Dagster stores it in a database row"""
MAX_CHARACTERS = 999
"""maximum size of a preview as Markdown; Dagster shows longer Markdown only after a click"""
IMAGES = 5
SIDES = (48, 40, 32, 24, 16, 8)
QUALITIES = (60, 30, 15)
POINTS = 40
WIDTH, HEIGHT = 240, 60


@dataclass(frozen=True)
class SampleRow:
    """A row of a sheet. ``synthetic`` has (captioner, caption) pairs."""

    key: str
    image: Image.Image
    views: Sequence[Image.Image] = ()
    caption: str = ""
    synthetic: Sequence[tuple[str, str]] = ()


def inline_markdown(data: bytes, alt: str = "", kind: str = "png") -> str:
    """Return a Markdown image that contains its own bytes."""
    text = "".join(" " if character in "[]\\\n\r" else character for character in alt)
    return f"![{text}](data:image/{kind};base64,{base64.b64encode(data).decode()})"


def sample_sheet(rows: Sequence[SampleRow]) -> bytes:
    """Draw a row for each sample: image, views, real caption and synthetic captions with their captioner.

    The colors and then the size are reduced until the sheet has at most ``MAX_BYTES``. Use it for 4 to 8 samples.
    """
    data = b""
    for side in (96, 72, 48, 32):
        sheet = _sheet(rows, side)
        for colors in (256, 64):
            buffer = io.BytesIO()
            # the default method is slightly better, but takes longer than a small stage
            few = sheet.quantize(colors, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE)
            few.save(buffer, format="png", optimize=True)
            data = buffer.getvalue()
            if len(data) <= MAX_BYTES:
                return data
    return data


_GAP = 8
_TEXT_WIDTH = 340.0
_LINE = 17


def _sheet(rows: Sequence[SampleRow], side: int) -> Image.Image:
    views = max((len(row.views) for row in rows), default=0)
    text_left = 2 * _GAP + (side + _GAP) * (1 + views)
    texts = [_lines(row) for row in rows]
    heights = [max(side, _LINE * len(lines)) + 2 * _GAP for lines in texts]
    sheet = Image.new("RGB", (text_left + int(_TEXT_WIDTH) + _GAP, _LINE + 2 * _GAP + sum(heights)), PAPER)
    draw = ImageDraw.Draw(sheet)
    headings = ["image", *(f"view {number}" for number in range(views))]
    for column, heading in enumerate(headings):
        draw.text((_GAP + column * (side + _GAP), _GAP), heading, fill=MUTED, font=_font(11))
    draw.text((text_left, _GAP), "real caption, then synthetic captions", fill=MUTED, font=_font(11))
    top = _LINE + 2 * _GAP
    for row, lines, height in zip(rows, texts, heights, strict=True):
        draw.line((_GAP, top - _GAP // 2, sheet.width - _GAP, top - _GAP // 2), fill=GRID)
        for column, image in enumerate([row.image, *row.views]):
            thumb = fit(image, side)
            left = _GAP + column * (side + _GAP)
            corner = (left + (side - thumb.width) // 2, top + (side - thumb.height) // 2)
            sheet.paste(thumb, corner)
            draw.rectangle((*corner, corner[0] + thumb.width - 1, corner[1] + thumb.height - 1), outline=GRID)
        for number, (text, color) in enumerate(lines):
            draw.text((text_left, top + _LINE * number), text, fill=color, font=_font(13))
        top += height
    return sheet


def fit(image: Image.Image, side: int) -> Image.Image:
    """Scale an RGB image so that its longer side is ``side`` pixels. Small images are enlarged."""
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.convert("RGB").resize(size, Image.Resampling.LANCZOS)


def _lines(row: SampleRow) -> list[tuple[str, str]]:
    captioners = list(dict.fromkeys(captioner for captioner, _ in row.synthetic))
    lines = [(line, INK) for line in _wrap(row.caption or "(no caption)", 3)]
    for captioner, caption in row.synthetic:
        color = series(captioners.index(captioner))
        lines += [(line, color) for line in _wrap(f"{captioner}: {caption}", 2)]
    return [*lines, (_wrap(row.key, 1)[0], MUTED)]


def _wrap(text: str, most: int) -> list[str]:
    """Wrap text to at most ``most`` lines of the column. An ellipsis marks omitted text."""
    font = _font(13)
    lines: list[str] = [""]
    for word in " ".join(text.split())[:1000].split(" "):
        joined = f"{lines[-1]} {word}".strip()
        if font.getlength(joined) <= _TEXT_WIDTH:
            lines[-1] = joined
            continue
        lines += [""] if lines[-1] else []
        while font.getlength(word) > _TEXT_WIDTH:
            fits = max(1, bisect_right(range(len(word)), _TEXT_WIDTH, key=lambda n: font.getlength(word[: n + 1])))
            lines[-1:] = [word[:fits], ""]
            word = word[fits:]
        lines[-1] = word
        if len(lines) > most:
            break
    if len(lines) > most:
        last = lines[most - 1]
        while last and font.getlength(last + "…") > _TEXT_WIDTH:
            last = last[:-1]
        lines = [*lines[: most - 1], last + "…"]
    return lines


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """Load the font of the plots, which covers more scripts than Pillow's default font."""
    with needs("report"):
        import matplotlib

    return ImageFont.truetype(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf", size)


def strip(images: Sequence[Image.Image], alt: str) -> str:
    """Draw the first images in a row, with the largest side and quality that fit."""
    markdown = ""
    for side, quality in product(SIDES, QUALITIES):
        row = Image.new("RGB", (side * len(images[:IMAGES]) or side, side), PAPER)
        for number, image in enumerate(images[:IMAGES]):
            thumb = fit(image, side)
            row.paste(thumb, (number * side + (side - thumb.width) // 2, (side - thumb.height) // 2))
        buffer = io.BytesIO()
        row.save(buffer, format="webp", quality=quality, method=6)
        markdown = inline_markdown(buffer.getvalue(), alt, "webp")
        if len(markdown) <= MAX_CHARACTERS:
            break
    return markdown


def sparkline(values: Sequence[float], alt: str) -> str:
    """Draw a curve with its first and last value."""
    finite = [value for value in values if isfinite(value)]
    low, high = min(finite, default=0.0), max(finite, default=0.0)
    step = max(1, len(finite) / POINTS)
    chosen = [finite[int(number * step)] for number in range(int(len(finite) / step))]
    scale_x, scale_y = WIDTH / max(1, len(chosen) - 1), (HEIGHT - 14) / ((high - low) or 1)
    points = " ".join(f"{n * scale_x:.0f},{HEIGHT - (value - low) * scale_y:.0f}" for n, value in enumerate(chosen))
    label = f"{finite[0]:.3g} → {finite[-1]:.3g}" if finite else "no value"
    svg = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}"><text x="{WIDTH}" y="11" '
        f'font-size="11" text-anchor="end" fill="{MUTED}">{label}</text>'
        f'<polyline points="{points}" fill="none" stroke="{INK}"/></svg>'
    )
    return inline_markdown(svg.encode(), alt, "svg+xml")

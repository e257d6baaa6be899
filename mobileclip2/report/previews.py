"""Pictures of at most :data:`MAX_CHARACTERS` of Markdown, which Dagster shows at once. It shows a longer one after a click."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import product
from math import isfinite

from PIL import Image

from mobileclip2.report.palette import INK, MUTED, PAPER
from mobileclip2.report.pictures import fit

MAX_CHARACTERS = 999
IMAGES = 5
SIDES = (48, 40, 32, 24, 16, 8)
QUALITIES = (60, 30, 15)
POINTS = 40
WIDTH, HEIGHT = 240, 60


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
        markdown = _markdown(buffer.getvalue(), "webp", alt)
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
    return _markdown(svg.encode(), "svg+xml", alt)


def _markdown(data: bytes, kind: str, alt: str) -> str:
    return f"![{alt}](data:image/{kind};base64,{base64.b64encode(data).decode()})"

"""A page of search results: each query with its ranked pictures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from mobileclip2.api.model import open_picture
from mobileclip2.api.search import Ranked
from mobileclip2.extras import versions
from mobileclip2.report.page import render, write_page

SIDE = 320
"""largest side of a picture on the page in pixels"""


def write_search(
    results: Sequence[tuple[str, Sequence[Ranked]]], model: str, folder: Path, count: int, path: Path
) -> None:
    """Write the page of ``results`` atomically: queries with their pictures, the best first.

    The page contains the pictures, so that it can be sent to others.
    """
    now = datetime.datetime.now(datetime.UTC)
    page = render(
        "search.html.j2",
        {"results": "Results"},
        title=f"Search in {folder.name}",
        subtitle=f"{count:,} pictures of {folder} · {model} · {now:%Y-%m-%d %H:%M} UTC",
        tiles=(),
        software=versions(("mobileclip2", "torch")),
        queries=[(query, [(each, _thumbnail(each.path)) for each in pictures]) for query, pictures in results],
        side=SIDE,
    )
    # the name of a file can have bytes that are not UTF-8
    write_page(page.encode(errors="backslashreplace").decode(), path)


def _thumbnail(path: Path) -> Image.Image:
    image = open_picture(path)
    image.thumbnail((SIDE, SIDE))
    return image

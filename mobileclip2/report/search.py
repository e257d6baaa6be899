"""A page of search results: each query with its ranked pictures."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from PIL import Image

from mobileclip2.api.model import open_picture
from mobileclip2.api.search import Ranked
from mobileclip2.extras import versions
from mobileclip2.report.html import render, write_page

SIDE = 320
"""largest side of a picture on the page in pixels"""


@dataclass(frozen=True)
class Found:
    """A query with its pictures, the best first."""

    query: str
    pictures: Sequence[Ranked]


@dataclass(frozen=True)
class SearchPage:
    """Everything that the page shows."""

    title: str
    folder: str
    model: str
    count: int
    results: Sequence[tuple[Found, Sequence[tuple[Ranked, Image.Image]]]]
    created: str
    software: dict[str, str] = field(default_factory=dict)


def write_search(found: Sequence[Found], model: str, folder: Path, count: int, path: Path) -> None:
    """Write the page atomically. The pictures are in it, so that it can be sent to others."""
    now = datetime.datetime.now(datetime.UTC)
    page = SearchPage(
        title=f"{folder.name}: search",
        folder=str(folder),
        model=model,
        count=count,
        results=[(each, [(ranked, _thumbnail(ranked.path)) for ranked in each.pictures]) for each in found],
        created=f"{now:%Y-%m-%d %H:%M} UTC",
        software=versions(("mobileclip2", "torch")),
    )
    write_page(render("search.html.j2", report=page, side=SIDE), path)


def _thumbnail(path: Path) -> Image.Image:
    image = open_picture(path)
    image.thumbnail((SIDE, SIDE))
    return image

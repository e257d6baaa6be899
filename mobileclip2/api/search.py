"""Search the pictures of a folder by a text or by a picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from mobileclip2.api.model import ImageTextModel, open_picture
from mobileclip2.data.importing.folders import pictures
from mobileclip2.errors import UserError

KNOWN = 20
"""number of unreadable files that a message names"""


@dataclass(frozen=True)
class Ranked:
    """A picture and its cosine similarity to the query."""

    path: Path
    score: float


@dataclass(frozen=True)
class Index:
    """Embeddings of the readable pictures of a folder."""

    paths: list[Path]
    features: Tensor
    """``[len(paths), embed_dim]``"""
    unreadable: list[str]
    """a message for each picture that was left out"""


def index(model: ImageTextModel, folder: Path, advance: Callable[[int, int], None] = lambda done, total: None) -> Index:
    """Embed the pictures of a folder and its subfolders. Unreadable pictures are left out and named.

    Raises:
        UserError: the folder does not exist, or holds no readable picture.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: there is no such folder")
    paths = pictures(folder)
    readable: list[Path] = []
    unreadable: list[str] = []

    def opened() -> Iterator[Image.Image]:
        for path in paths:
            try:
                image = open_picture(path)
            except UserError as error:
                unreadable.append(str(error))
            else:
                readable.append(path)
                yield image

    features = model.embed_images(opened(), lambda done: advance(done, len(paths)))
    if not readable:
        raise UserError("\n  ".join([f"{folder}: no readable picture", *unreadable[:KNOWN]]))
    return Index(readable, features, unreadable)


def search(model: ImageTextModel, query: str | Path, indexed: Index, top: int) -> list[Ranked]:
    """Return the ``top`` pictures that match a text, or look like a picture, the best first."""
    return [Ranked(indexed.paths[match.index], match.score) for match in model.rank(query, indexed.features, top)]

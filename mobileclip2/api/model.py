"""A loaded image-text model with a small interface for applications."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.image import decode, to_rgb
from mobileclip2.errors import UserError
from mobileclip2.export.as_open_clip import write_folder
from mobileclip2.models.batched import each_text_once
from mobileclip2.models.image_text import ImageText

Picture = str | Path | bytes | Image.Image
"""a file, the content of a file, or a picture of Pillow"""

BATCH = 32
TEMPLATES = ("a photo of a {c}.",)


@dataclass(frozen=True)
class Match:
    """A ranked picture or text: its position in the input and its cosine similarity, from -1 to 1."""

    index: int
    score: float


@dataclass(frozen=True)
class Prediction:
    """A class and its probability."""

    name: str
    probability: float


class ImageTextModel:
    """Embeds pictures and texts into one space, in which a picture lies near its description.

    Use :func:`mobileclip2.load` to make one.
    """

    def __init__(self, image_text: ImageText, name: str, device: torch.device) -> None:
        image_text.model.to(device).eval()
        self.image_text = image_text
        self.name = name
        self.device = device

    def __repr__(self) -> str:
        size = self.image_text.preprocess.size
        return f"<ImageTextModel {self.name}: {size} x {size} pixels, {self.embed_dim} dimensions, on {self.device}>"

    @property
    def module(self) -> nn.Module:
        """Return open_clip's module, with ``encode_image``, ``encode_text`` and ``logit_scale``, to train it."""
        return self.image_text.model

    def tokenize(self, texts: Sequence[str]) -> Tensor:
        """Return the tokens of texts, int64 ``[len(texts), context]``."""
        return self.image_text.tokenize(texts)

    def preprocess(self, image: Picture) -> Tensor:
        """Return a picture as the module takes it, ``[3, size, size]``."""
        return self.image_text.preprocess.whole(open_picture(image))

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the model as a folder for :func:`mobileclip2.load` and for ``local-dir:`` of open_clip.

        If timm lacks the image tower, the folder contains the module that registers it with timm.
        """
        write_folder(self.image_text, Path(folder))

    @property
    def embed_dim(self) -> int:
        """Return the number of dimensions of an embedding."""
        return self.image_text.embed_dim

    @property
    def logit_scale(self) -> float:
        """Return the factor of a cosine similarity before a softmax: 1 / temperature."""
        scale = getattr(self.image_text.model, "logit_scale", None)
        return 100.0 if scale is None else float(scale.detach().exp())

    def embed_images(self, images: Iterable[Picture], advance: Callable[[int], None] = lambda done: None) -> Tensor:
        """Embed pictures as L2-normalized fp32 ``[n, embed_dim]`` on the CPU, in the order of the pictures.

        Args:
            advance: receives the number of embedded pictures after each batch.

        Raises:
            UserError: a picture cannot be read. The message names it.
        """
        batches: list[Tensor] = []
        done = 0
        pixels = map(self.preprocess, images)
        while batch := list(islice(pixels, BATCH)):
            batches.append(self.image_text.embed_images(torch.stack(batch).to(self.device)).cpu())
            done += len(batch)
            advance(done)
        return torch.cat(batches) if batches else torch.empty(0, self.embed_dim)

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as L2-normalized fp32 ``[len(texts), embed_dim]`` on the CPU.

        Raises:
            UserError: ``texts`` is one string.
        """
        if isinstance(texts, str):
            raise UserError("embed_texts takes a list of texts; write embed_texts([text])")
        texts = list(texts)
        if not texts:
            return torch.empty(0, self.embed_dim)
        return each_text_once(lambda batch: self.image_text.embed_texts(batch), texts, BATCH)

    def rank(self, query: str | Picture, candidates: Sequence[Picture] | Tensor, top: int | None = None) -> list[Match]:
        """Rank pictures, or embeddings ``[n, embed_dim]``, by their similarity to a query, the best first.

        A string is a text; give a path as a ``Path`` to search with a picture.

        Args:
            top: number of matches to return. Default: all.

        Raises:
            UserError: a picture cannot be read.
        """
        wanted = self.embed_texts([query]) if isinstance(query, str) else self.embed_images([query])
        features = candidates if isinstance(candidates, Tensor) else self.embed_images(candidates)
        scores = (features.float() @ wanted[0]).tolist()
        # ties keep the order of the input, so that the same search gives the same result
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [Match(index, scores[index]) for index in order[:top]]

    def classify(
        self, images: Sequence[Picture] | Tensor, classes: Sequence[str], templates: Sequence[str] = TEMPLATES
    ) -> list[list[Prediction]]:
        """Classify pictures, or embeddings ``[n, embed_dim]``, without training (Radford et al. 2021, section 3.1).

        Args:
            templates: sentences in which ``{c}`` is replaced by the class. Their embeddings are averaged.

        Returns:
            For each picture, all classes with their probabilities, the likeliest first.

        Raises:
            UserError: there is no class, or a template has no ``{c}``.
        """
        if isinstance(classes, str) or not classes:
            raise UserError("classify needs a list of class names")
        if bad := [template for template in templates if "{c}" not in template]:
            raise UserError(f"template {bad[0]!r} has no placeholder; write {{c}} where the class name goes")
        prompts = [template.replace("{c}", name) for name in classes for template in templates]
        features = self.embed_texts(prompts).unflatten(0, (len(classes), len(templates))).mean(1)
        pictures = images if isinstance(images, Tensor) else self.embed_images(images)
        probabilities = (self.logit_scale * pictures.float() @ F.normalize(features, dim=-1).T).softmax(-1)
        orders = probabilities.argsort(descending=True, stable=True).tolist()
        return [
            [Prediction(classes[index], float(row[index])) for index in order]
            for row, order in zip(probabilities, orders, strict=True)
        ]


def open_picture(picture: Picture) -> Image.Image:
    """Return a picture in RGB, decoded as the training decodes it.

    Raises:
        UserError: the file cannot be read or is no picture.
    """
    if isinstance(picture, Image.Image):
        return to_rgb(picture)
    name = str(picture) if isinstance(picture, str | Path) else f"{len(picture):,} bytes"
    try:
        return decode(Path(picture).read_bytes() if isinstance(picture, str | Path) else picture)
    except OSError as error:
        raise UserError(f"{name}: cannot be read: {error.strerror or error}") from error
    except BadSample as bad:
        raise UserError(f"{name}: {bad.detail}; give a JPEG, PNG, WebP, GIF or BMP") from bad

"""How near an export's features are to those of the trained model, on the profile's own images and texts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from PIL import Image
from torch import Tensor

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.image import decode
from mobileclip2.errors import UserError
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.export.model import Model, Tower

MOST = 1000
"""images and texts that are compared"""
LEAST = 0.9999
"""cosine that every image and text of an fp32 export must reach"""


@dataclass(frozen=True)
class Inputs:
    """Encoded images and texts, each different, and images to measure ranges on."""

    images: Sequence[bytes]
    texts: Sequence[str]
    calibration: Sequence[bytes]
    """images that are not among the compared ones, where there are enough"""


@dataclass(frozen=True)
class Parity:
    """Cosines between features of the trained model and of the export, over ``count`` images or texts.

    ``same_input`` of them gave the same pixels or tokens to the bit.
    """

    tower: str
    precision: str
    count: int
    same_input: int
    mean: float
    percentile_1: float
    lowest: float


def inputs(sets: Sequence[EvaluationSet], calibration: int) -> Inputs:
    """Up to :data:`MOST` usable images and texts in the order of the sets, and ``calibration`` images after them.

    Raises:
        UserError: the sets hold nothing to compare on, or cannot be read.
    """
    found = list(islice(_images(sets), MOST + calibration))
    texts = list(islice(_texts(sets), MOST))
    if not found or not texts:
        raise UserError(
            "export: the profile's evaluation sets have no image or no text to compare the export on; "
            "add a set to 'evaluation'"
        )
    return Inputs(found[:MOST], texts, found[-calibration:])


def _images(sets: Sequence[EvaluationSet]) -> Iterator[bytes]:
    seen: set[bytes] = set()
    for each in sets:
        for sample in each.samples():
            if not sample.fault and sample.image not in seen and _usable(sample.image):
                seen.add(sample.image)
                yield sample.image


def _usable(image: bytes) -> bool:
    try:
        decode(image)
    except BadSample:
        return False
    return True


def _texts(sets: Sequence[EvaluationSet]) -> Iterator[str]:
    seen: dict[str, None] = {}
    for text in _all_texts(sets):
        if text not in seen:
            seen[text] = None
            yield text


def _all_texts(sets: Sequence[EvaluationSet]) -> Iterator[str]:
    for each in sets:
        if each.kind in {"retrieval", "association"}:
            for sample in each.samples():
                yield from sample.captions
            continue
        asked = each.questions.values() if each.kind == "faces" else [(each.classnames, each.templates)]
        for names, templates in asked:
            yield from (template.format(c=name) for template in templates for name in names)


@torch.inference_mode()
def parity(before: Model, after: Model, found: Inputs, precision: str, batch: int) -> list[Parity]:
    """Both towers, each fed as its own reader feeds it.

    A text that the export's tokenizer reads otherwise is counted and its features are not compared: they are of
    another text.
    """
    pictures = _compared(before.image, after.image, _pairs(found.images, before, after), batch)
    texts = [*zip(before.tokens(found.texts), after.tokens(found.texts), strict=True)]
    read_alike = [(ours, theirs) for ours, theirs in texts if torch.equal(ours, theirs)]
    written = _compared(before.text, after.text, iter(read_alike), batch)
    return [
        _summary("image", precision, len(found.images), *pictures),
        _summary("text", precision, len(texts), *written),
    ]


def _pairs(images: Sequence[bytes], before: Model, after: Model) -> Iterator[tuple[Tensor, Tensor]]:
    for image in images:
        picture: Image.Image = decode(image)
        yield before.pixels(picture), after.pixels(picture)


def _compared(
    before: Tower,
    after: Tower,
    pairs: Iterator[tuple[Tensor, Tensor]],
    batch: int,
) -> tuple[Tensor, int]:
    """Cosines, and how many of the pairs are equal."""
    cosines, same = [], 0
    while some := list(islice(pairs, batch)):
        ours, theirs = (torch.stack(side) for side in zip(*some, strict=True))
        same += sum(torch.equal(one, other) for one, other in some)
        cosines.append(torch.nn.functional.cosine_similarity(before(ours).double(), after(theirs).double(), dim=-1))
    return torch.cat([*cosines, torch.empty(0, dtype=torch.float64)]), same


def _summary(tower: str, precision: str, count: int, cosines: Tensor, same: int) -> Parity:
    if not len(cosines):
        return Parity(tower, precision, count, same, 0.0, 0.0, 0.0)
    mean, low, lowest = (float(value) for value in (cosines.mean(), cosines.quantile(0.01), cosines.min()))
    return Parity(tower, precision, count, same, mean, low, lowest)


def demand(measured: Sequence[Parity]) -> None:
    """Refuses an fp32 export that is not what was trained.

    Raises:
        UserError: a cosine is below :data:`LEAST`.
    """
    for each in measured:
        if not each.lowest >= LEAST:
            raise UserError(
                f"export: the {each.tower} tower has a cosine of {each.lowest:.6f} to the trained model where {LEAST} is the "
                f"least; nothing was written. Choose another format, and report the architecture"
            )

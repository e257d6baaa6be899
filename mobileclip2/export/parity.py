"""Compare the features of an export with those of the trained model, on the evaluation sets of the profile."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

import torch
from torch import Tensor

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.image import decode
from mobileclip2.errors import UserError
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.export.model import ExportModel, Tower

T = TypeVar("T")

MAX_INPUTS = 1000
"""Most images and texts in a comparison."""
MAX_ASPECT = 100
"""Largest ratio of the sides of an image in a comparison. open_clip resizes the whole image, which can need gigabytes."""
LEAST = 0.9999
"""Lowest allowed cosine of an image or text of an fp32 export."""


@dataclass(frozen=True)
class Inputs:
    """Distinct encoded images and texts to compare, and images for calibration."""

    images: Sequence[bytes]
    texts: Sequence[str]
    calibration: Sequence[bytes]
    """Images for calibration. They overlap with ``images`` only if the sets are small."""


@dataclass(frozen=True)
class Parity:
    """Cosines between the features of the trained model and of the export, over ``count`` images or texts.

    ``same_input`` is the number of images or texts with identical pixels or tokens.
    """

    tower: str
    precision: str
    count: int
    same_input: int
    mean: float
    percentile_1: float
    lowest: float


def inputs(sets: Sequence[EvaluationSet], calibration: int) -> Inputs:
    """Return up to :data:`MAX_INPUTS` images and texts in the order of the sets, and ``calibration`` images.

    Raises:
        UserError: the sets cannot be read, or contain no image or no text.
    """
    images = list(islice(_images(sets), MAX_INPUTS + calibration))
    texts = list(islice(_distinct(_texts(sets)), MAX_INPUTS))
    if not images or not texts:
        raise UserError(
            "export: the profile's evaluation sets contain no image or no text for the comparison; "
            "add a set to 'evaluation'"
        )
    return Inputs(images[:MAX_INPUTS], texts, images[-calibration:])


def _images(sets: Sequence[EvaluationSet]) -> Iterator[bytes]:
    images = (sample.image for each in sets for sample in each.samples() if not sample.fault)
    return filter(_usable, _distinct(images))


def _distinct(items: Iterable[T]) -> Iterator[T]:
    seen: set[T] = set()
    for item in items:
        if item not in seen:
            seen.add(item)
            yield item


def _usable(image: bytes) -> bool:
    try:
        shorter, longer = sorted(decode(image).size)
    except BadSample:
        return False
    return longer <= MAX_ASPECT * shorter


def _texts(sets: Sequence[EvaluationSet]) -> Iterator[str]:
    for each in sets:
        if each.kind in {"retrieval", "association"}:
            for sample in each.samples():
                yield from sample.captions
            continue
        questions = each.questions.values() if each.kind == "faces" else [(each.classnames, each.templates)]
        for names, templates in questions:
            yield from (template.format(c=name) for template in templates for name in names)


@torch.inference_mode()
def parity(before: ExportModel, after: ExportModel, data: Inputs, precision: str, batch: int) -> list[Parity]:
    """Compare both towers, each with its own preprocessing and tokenizer.

    Texts with different tokens are counted, but their features are not compared.
    """
    pixels = ((before.pixels(image), after.pixels(image)) for image in map(decode, data.images))
    images = _compare(before.image, after.image, pixels, batch)
    tokens = [*zip(before.tokens(data.texts), after.tokens(data.texts), strict=True)]
    same_tokens = (pair for pair in tokens if torch.equal(*pair))
    texts = _compare(before.text, after.text, same_tokens, batch)
    return [
        _summary("image", precision, len(data.images), *images),
        _summary("text", precision, len(tokens), *texts),
    ]


def _compare(before: Tower, after: Tower, pairs: Iterator[tuple[Tensor, Tensor]], batch: int) -> tuple[Tensor, int]:
    """Return the cosines of all pairs and the number of equal inputs."""
    cosines, same = [], 0
    while chunk := list(islice(pairs, batch)):
        inputs_before, inputs_after = (torch.stack(inputs) for inputs in zip(*chunk, strict=True))
        same += sum(torch.equal(*pair) for pair in chunk)
        features = before(inputs_before).double(), after(inputs_after).double()
        cosines.append(torch.nn.functional.cosine_similarity(*features, dim=-1))
    return torch.cat([*cosines, torch.empty(0, dtype=torch.float64)]), same


def _summary(tower: str, precision: str, count: int, cosines: Tensor, same: int) -> Parity:
    if not len(cosines):
        return Parity(tower, precision, count, same, 0.0, 0.0, 0.0)
    mean, low, lowest = (float(value) for value in (cosines.mean(), cosines.quantile(0.01), cosines.min()))
    return Parity(tower, precision, count, same, mean, low, lowest)


def demand(measured: Sequence[Parity]) -> None:
    """Check the parity of an fp32 export.

    Raises:
        UserError: a cosine is below :data:`LEAST`.
    """
    for each in measured:
        if not each.lowest >= LEAST:
            raise UserError(
                f"export: the {each.tower} tower has a cosine of {each.lowest:.6f} to the trained model, but at least {LEAST} "
                "is required. The export was not written. Choose another format, and report the architecture"
            )

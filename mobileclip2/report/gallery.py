"""Pictures that teacher, student and baseline find for the same texts, and the classes that they confuse.

Everything comes from the stored prediction tables. Fixed rules choose queries and pictures, and never the results, so that
two reports of the same models show the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from mobileclip2.evaluation.results import Result
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.report.examples import columns_of, set_images

QUERIES = 6
"""number of text queries of a set, evenly spaced over its captions"""
CONFUSED = 5
"""number of confused pairs of classes of a set, the most frequent ones of the student"""
SHOWN = 3
"""number of confused pictures of a pair"""
SETS = 4
"""number of sets of each kind, which bounds the page to about 3 MB"""


@dataclass(frozen=True)
class RankedPicture:
    """A picture that a model ranked for a query."""

    image: Image.Image
    right: bool


@dataclass(frozen=True)
class Ranking:
    """The best pictures of one model for a query. ``rank`` pictures come before the first right one."""

    model: str
    pictures: Sequence[RankedPicture]
    rank: int


@dataclass(frozen=True)
class Query:
    """A text with the rankings of all models."""

    text: str
    answer: Image.Image
    rankings: Sequence[Ranking]


@dataclass(frozen=True)
class Confused:
    """Two classes: pictures of ``right`` that the student took for ``taken``, beside a picture of ``taken``."""

    right: str
    taken: str
    pictures: Sequence[Image.Image]
    example: Image.Image | None
    """a picture of ``taken``, or None if the set has none"""
    counts: Mapping[str, int]
    """number of pictures of ``right`` that each model took for ``taken``"""
    total: int
    """number of pictures of ``right``"""


@dataclass(frozen=True)
class GallerySet:
    """The queries of a retrieval set, or the confused classes of a classification set."""

    name: str
    queries: Sequence[Query] = ()
    confused: Sequence[Confused] = ()


@dataclass(frozen=True)
class Gallery:
    """The compared models, each with a note such as ``teacher``, and what they found."""

    models: Mapping[str, str]
    student: str
    sets: Sequence[GallerySet] = ()


def queries(set_: EvaluationSet, results: Mapping[str, Result]) -> list[Query]:
    """Return text queries of a retrieval set, with the best pictures of each model."""
    captions: list[str] = []
    image_of: list[int] = []
    for number, sample in enumerate(set_.samples()):
        captions += sample.captions
        image_of += [number] * len(sample.captions)
    tables = {model: [*columns_of(result, "rank", "nearest")] for model, result in results.items()}
    count = min(QUERIES, len(captions))
    chosen = [len(captions) * (2 * number + 1) // (2 * count) for number in range(count)]
    near = {image for _, nearest in tables.values() for row in chosen for image in nearest[row]}
    images = set_images(set_, near | {image_of[row] for row in chosen})
    return [
        Query(
            captions[row],
            images[image_of[row]],
            [
                Ranking(
                    model, [RankedPicture(images[image], image == image_of[row]) for image in nearest[row]], ranks[row]
                )
                for model, (ranks, nearest) in tables.items()
            ],
        )
        for row in chosen
    ]


def confused(set_: EvaluationSet, results: Mapping[str, Result], student: str) -> list[Confused]:
    """Return the most frequent confusions of the student, with the counts of all models. Ties follow the classes."""
    targets, keys = columns_of(results[student], "target", "key")
    predicted = {model: next(columns_of(result, "predicted")) for model, result in results.items()}
    counts = {model: Counter(zip(targets, taken, strict=True)) for model, taken in predicted.items()}
    own = {pair: count for pair, count in counts[student].items() if pair[0] != pair[1]}
    pairs = sorted(own, key=lambda pair: (-own[pair], pair))[:CONFUSED]
    order = sorted(range(len(keys)), key=lambda row: (keys[row], row))
    rows = {pair: [row for row in order if (targets[row], predicted[student][row]) == pair][:SHOWN] for pair in pairs}
    example_of = {taken: next((row for row in order if targets[row] == taken), None) for _, taken in pairs}
    wanted = {row for shown in rows.values() for row in shown} | {row for row in example_of.values() if row is not None}
    images, totals, names = set_images(set_, wanted), Counter(targets), set_.classnames
    found = []
    for right, taken in pairs:
        row = example_of[taken]
        found.append(
            Confused(
                names[right],
                names[taken],
                [images[each] for each in rows[right, taken]],
                None if row is None else images[row],
                {model: count[right, taken] for model, count in counts.items()},
                totals[right],
            )
        )
    return found


def gallery_set(set_: EvaluationSet, results: Mapping[str, Result], student: str) -> GallerySet | None:
    """Return the part of a gallery that shows one set, or None for a set of another kind."""
    match set_.kind:
        case "retrieval":
            return GallerySet(set_.name, queries=queries(set_, results))
        case "classification":
            return GallerySet(set_.name, confused=confused(set_, results, student))
    return None

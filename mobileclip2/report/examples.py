"""Examples of a model's right and wrong predictions on an evaluation set. Fixed rules choose them from its prediction table.

Failures are the samples whose right answer has the highest rank, successes those with rank 0. Ties go by key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from mobileclip2.data.image import decode
from mobileclip2.evaluation.bootstrap import Interval, draws, interval
from mobileclip2.evaluation.metrics import metrics_of
from mobileclip2.evaluation.results import Result
from mobileclip2.evaluation.sets import QUESTIONS, EvaluationSet, Sample

PAIRS = 10
"""number of listed confusions"""
MATRIX = 24
"""maximum number of classes for which a confusion matrix is drawn"""
RETRIEVED = 4
"""number of shown queries of each kind"""
SIDE = 256
"""maximum side of an image in memory, in pixels; the page makes it smaller"""


@dataclass(frozen=True)
class Classified:
    """An image with its class and the predicted class. ``rank`` classes have a higher score than the right one."""

    key: str
    image: Image.Image
    right: str
    predicted: str
    rank: int


class Confusion(NamedTuple):
    """``images`` images of class ``right`` were classified as ``predicted``. ``share`` is relative to all images of ``right``."""

    right: str
    predicted: str
    images: int
    share: float


@dataclass(frozen=True)
class Candidate:
    """A candidate image or text. ``chosen`` marks the model's answer to an association question."""

    content: Image.Image | str
    right: bool
    chosen: bool = False


@dataclass(frozen=True)
class Retrieved:
    """A query with its top candidates and all right answers. ``rank`` candidates have a higher score than the best right one."""

    key: str
    query: Image.Image | str
    candidates: Sequence[Candidate]
    answers: Sequence[Image.Image | str]
    rank: int


@dataclass(frozen=True)
class Association:
    """A question of an association set: which images belong to the cue."""

    cue: str
    candidates: Sequence[Candidate]


@dataclass(frozen=True)
class Share:
    """A metric on one group of an evaluation set."""

    group: str
    value: float
    interval: Interval
    samples: int


def classified(set_: EvaluationSet, result: Result, failures: int, successes: int) -> list[list[Classified]]:
    """Return the failures with the highest rank, and successes of different classes."""
    keys, targets, predicted, ranks = columns_of(result, "key", "target", "predicted", "rank")
    rows = range(len(keys))
    wrong = sorted((row for row in rows if ranks[row]), key=lambda row: (-ranks[row], keys[row], row))[:failures]
    first_of_class: dict[int, int] = {}
    for row in sorted((row for row in rows if not ranks[row]), key=lambda row: (keys[row], row)):
        first_of_class.setdefault(targets[row], row)
    right = list(first_of_class.values())[:successes]
    images = set_images(set_, {*wrong, *right})
    names = set_.classnames
    return [
        [Classified(keys[row], images[row], names[targets[row]], names[predicted[row]], ranks[row]) for row in chosen]
        for chosen in (wrong, right)
    ]


def confusions(set_: EvaluationSet, result: Result) -> list[Confusion]:
    """Return the most frequent confusions. Ties go by share, then by the order of the classes."""
    targets, predicted = columns_of(result, "target", "predicted")
    images = Counter(targets)
    pairs = Counter(pair for pair in zip(targets, predicted, strict=True) if pair[0] != pair[1])
    rows = [(count, count / images[right], right, wrong) for (right, wrong), count in pairs.items()]
    rows.sort(key=lambda row: (-row[0], -row[1], row[2:]))
    names = set_.classnames
    return [Confusion(names[right], names[wrong], count, share) for count, share, right, wrong in rows[:PAIRS]]


def confusion_shares(set_: EvaluationSet, result: Result) -> np.ndarray | None:
    """Return the confusion matrix ``[classes, classes]`` with rows that sum to 1, or None if there are too many classes."""
    classes = len(set_.classnames)
    if not 1 < classes <= MATRIX:
        return None
    targets, predicted = columns_of(result, "target", "predicted")
    counts = np.zeros((classes, classes))
    np.add.at(counts, (targets, predicted), 1)
    shares: np.ndarray = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return shares


def retrieved(set_: EvaluationSet, result: Result) -> list[Retrieved]:
    """Return the worst text queries and one success, then the same for image queries."""
    kinds, keys, ranks, nearest = columns_of(result, "query", "key", "rank", "nearest")
    texts = kinds.index("image")
    chosen = []
    for rows in (range(texts), range(texts, len(keys))):
        order = sorted(rows, key=lambda row: (-ranks[row], keys[row], row))
        chosen += [row for row in order if ranks[row]][: RETRIEVED - 1]
        chosen += [row for row in order if not ranks[row]][:1]
    captions, image_of_caption = captions_of(set_)
    image_of_row = {row: image_of_caption[row] if row < texts else row - texts for row in chosen}
    images = set_images(
        set_, {*image_of_row.values(), *(near for row in chosen if row < texts for near in nearest[row])}
    )
    queries: list[Retrieved] = []
    for row, image in image_of_row.items():
        if row < texts:
            pictures = [Candidate(images[near], near == image) for near in nearest[row]]
            queries.append(Retrieved(keys[row], captions[row], pictures, [images[image]], ranks[row]))
        else:
            answers = [text for text, its in zip(captions, image_of_caption, strict=True) if its == image]
            texts_near = [Candidate(captions[near], image_of_caption[near] == image) for near in nearest[row]]
            queries.append(Retrieved(keys[row], images[image], texts_near, answers, ranks[row]))
    return queries


def associations(set_: EvaluationSet, result: Result) -> list[Association]:
    """Return the questions with the smallest share of found associations. Ties go by key."""
    keys, wanted, found, chosen = columns_of(result, "key", "associations", "found", "chosen")
    worst = sorted(range(len(keys)), key=lambda row: (found[row] / wanted[row], keys[row]))[:RETRIEVED]
    groups = groupby(set_.samples(), key=lambda sample: sample.key.rpartition("/")[0])
    candidates = {key: list(group) for key, group in groups if key in {keys[row] for row in worst}}
    return [
        Association(
            candidates[keys[row]][0].captions[0],
            [
                Candidate(_small(sample), bool(sample.target), number in chosen[row])
                for number, sample in enumerate(candidates[keys[row]])
            ],
        )
        for row in worst
    ]


def splits(set_: EvaluationSet, result: Result, confidence: float, seed: Sequence[int]) -> dict[str, list[Share]]:
    """Return the shares of each metric by group, such as the accuracy in each region, with their intervals."""
    if not set_.fields or result.samples is None:
        return {}
    fields = "|".join(sorted(set_.fields, key=len, reverse=True))
    by_metric: dict[str, list[Share]] = {}
    for name, metric in metrics_of(result.key, result.samples).items():
        match = re.fullmatch(rf"(.+?)_((?:(?:{fields}):-?\d+_?)+)", name)
        value = result.metrics.get(name)
        if not match or value is None:
            continue
        conditions = [(field, int(number)) for field, number in re.findall(rf"({fields}):(-?\d+)", match[2])]
        inside = np.ones(result.samples.num_rows, bool)
        for field, number in conditions:
            inside &= result.samples.column(field).to_numpy() == number
        drawn = draws(metric, [result.samples], seed=seed)[0]
        group = ", ".join(_group_name(set_, field, number) for field, number in conditions)
        share = Share(group, value, interval(drawn, confidence), int(inside.sum()))
        by_metric.setdefault(match[1], []).append(share)
    return by_metric


def _group_name(set_: EvaluationSet, field: str, number: int) -> str:
    """Return the class name if the field is a question of the set, else the field with its number."""
    if set_.kind == "faces" and field in QUESTIONS:
        names = set_.questions[field][0]
        if 0 <= number < len(names):
            return names[number]
    return f"{field} {number}"


def columns_of(result: Result, *names: str) -> Iterator[list[Any]]:
    """Return columns of the prediction table of a result."""
    assert result.samples is not None
    return (result.samples.column(name).to_pylist() for name in names)


def captions_of(set_: EvaluationSet) -> tuple[list[str], list[int]]:
    """Return all captions of a set, and for each the index of its image."""
    pairs = [(caption, index) for index, sample in enumerate(set_.samples()) for caption in sample.captions]
    return [caption for caption, _ in pairs], [index for _, index in pairs]


def set_images(set_: EvaluationSet, indices: set[int]) -> dict[int, Image.Image]:
    """Return images by their index in the set, which is also their row in the table. Keys can repeat."""
    samples = islice(enumerate(set_.samples()), max(indices, default=-1) + 1)
    return {index: _small(sample) for index, sample in samples if index in indices}


def _small(sample: Sample) -> Image.Image:
    image = decode(sample.image)
    image.thumbnail((SIDE, SIDE))
    return image

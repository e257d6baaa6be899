"""What a model got right and wrong on a set, chosen from its prediction table by rules that leave nothing to luck.

Failures: the right answer came furthest down, ties by key. Successes: it came first, by key.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from PIL import Image

from mobileclip2.data.image import decode
from mobileclip2.evaluation.bootstrap import Interval, draws, interval
from mobileclip2.evaluation.metrics import metrics_of
from mobileclip2.evaluation.results import Result
from mobileclip2.evaluation.sets import QUESTIONS, EvaluationSet, Sample

PAIRS = 10
"""confusions that are listed"""
MATRIX = 24
"""classes of the largest set whose confusions are drawn as a matrix"""
RETRIEVED = 4
"""queries of a kind that are shown"""
_SIDE = 256
"""pixels of an image in memory; the page makes them smaller"""


@dataclass(frozen=True)
class Classified:
    """One image with its class and the class that came first; ``rank`` classes came before the right one."""

    key: str
    image: Image.Image
    right: str
    predicted: str
    rank: int


@dataclass(frozen=True)
class Confusion:
    """``count`` images of ``right`` were taken for ``predicted``: ``share`` of all images of ``right``."""

    right: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Candidate:
    """An image or a text; ``chosen`` marks what an association question was answered with."""

    content: Image.Image | str
    right: bool
    chosen: bool = False


@dataclass(frozen=True)
class Retrieved:
    """A query with the candidates that came first, and all right answers; ``rank`` came before the best of them."""

    key: str
    query: Image.Image | str
    candidates: Sequence[Candidate]
    answers: Sequence[Image.Image | str]
    rank: int


@dataclass(frozen=True)
class Association:
    """A question of an association set: which of the images belong to the cue."""

    key: str
    cue: str
    candidates: Sequence[Candidate]


@dataclass(frozen=True)
class Share:
    """A metric in one group of a set."""

    group: str
    value: float
    interval: Interval
    samples: int


@dataclass(frozen=True)
class Split:
    """A metric over the groups of a set; which of them do worst is what a fairness set asks."""

    metric: str
    shares: Sequence[Share]


def classified(each: EvaluationSet, result: Result, failures: int, successes: int) -> list[list[Classified]]:
    """Choose the worst failures, and successes of different classes."""
    keys, targets, predicted, ranks = _columns(result, "key", "target", "predicted", "rank")
    rows = range(len(keys))
    wrong = sorted((row for row in rows if ranks[row]), key=lambda row: (-ranks[row], keys[row], row))[:failures]
    of_class: dict[int, int] = {}
    for row in sorted((row for row in rows if not ranks[row]), key=lambda row: (keys[row], row)):
        of_class.setdefault(targets[row], row)
    right = list(of_class.values())[:successes]
    images = _images(each, {*wrong, *right})
    names = each.classnames
    return [
        [Classified(keys[row], images[row], names[targets[row]], names[predicted[row]], ranks[row]) for row in some]
        for some in (wrong, right)
    ]


def confusions(each: EvaluationSet, result: Result) -> list[Confusion]:
    """Return the most frequent mistakes. Ties go by their share of the class, then by the order of classes."""
    targets, predicted = _columns(result, "target", "predicted")
    images = Counter(targets)
    pairs = Counter(pair for pair in zip(targets, predicted, strict=True) if pair[0] != pair[1])
    found = [(count, count / images[right], right, taken) for (right, taken), count in pairs.items()]
    found.sort(key=lambda row: (-row[0], -row[1], row[2:]))
    names = each.classnames
    return [Confusion(names[right], names[taken], count, share) for count, share, right, taken in found[:PAIRS]]


def confusion_shares(each: EvaluationSet, result: Result) -> np.ndarray | None:
    """``[classes, classes]``: shares of each class by what it was taken for; None where they are too many to see."""
    classes = len(each.classnames)
    if not 1 < classes <= MATRIX:
        return None
    targets, predicted = _columns(result, "target", "predicted")
    counts = np.zeros((classes, classes))
    np.add.at(counts, (targets, predicted), 1)
    shares: np.ndarray = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    return shares


def retrieved(each: EvaluationSet, result: Result) -> list[Retrieved]:
    """Of texts and then of images: the worst queries, and one that was answered well."""
    kinds, keys, ranks, nearest = _columns(result, "query", "key", "rank", "nearest")
    texts = kinds.index("image")
    chosen = []
    for rows in (range(texts), range(texts, len(keys))):
        order = sorted(rows, key=lambda row: (-ranks[row], keys[row], row))
        chosen += [row for row in order if ranks[row]][: RETRIEVED - 1]
        chosen += [row for row in order if not ranks[row]][:1]
    captions: list[str] = []
    owner: list[int] = []
    for number, sample in enumerate(each.samples()):
        captions += sample.captions
        owner += [number] * len(sample.captions)
    own = {row: owner[row] if row < texts else row - texts for row in chosen}
    images = _images(each, {*own.values(), *(place for row in chosen if row < texts for place in nearest[row])})
    found: list[Retrieved] = []
    for row, image in own.items():
        if row < texts:
            pictures = [Candidate(images[place], place == image) for place in nearest[row]]
            found.append(Retrieved(keys[row], captions[row], pictures, [images[image]], ranks[row]))
        else:
            answers = [text for text, of in zip(captions, owner, strict=True) if of == image]
            written = [Candidate(captions[place], owner[place] == image) for place in nearest[row]]
            found.append(Retrieved(keys[row], images[image], written, answers, ranks[row]))
    return found


def associations(each: EvaluationSet, result: Result) -> list[Association]:
    """Choose the questions of which least was found. Ties go by key."""
    keys, wanted, found, chosen = _columns(result, "key", "associations", "found", "chosen")
    worst = sorted(range(len(keys)), key=lambda row: (found[row] / wanted[row], keys[row]))[:RETRIEVED]
    candidates: dict[str, list[Sample]] = {}
    for key, group in groupby(each.samples(), key=lambda sample: sample.key.rpartition("/")[0]):
        if key in {keys[row] for row in worst}:
            candidates[key] = list(group)
    return [
        Association(
            keys[row],
            candidates[keys[row]][0].captions[0],
            [
                Candidate(_small(sample), bool(sample.target), number in chosen[row])
                for number, sample in enumerate(candidates[keys[row]])
            ],
        )
        for row in worst
    ]


def splits(each: EvaluationSet, result: Result, confidence: float, seed: Sequence[int]) -> list[Split]:
    """Compute the metrics that a set is divided by, such as accuracy in each region, with their intervals."""
    if not each.fields or result.samples is None:
        return []
    fields = "|".join(sorted(each.fields, key=len, reverse=True))
    by_metric: dict[str, list[Share]] = {}
    for name, metric in metrics_of(result.key, result.samples).items():
        match = re.fullmatch(rf"(.+?)_((?:(?:{fields}):-?\d+_?)+)", name)
        value = result.metrics.get(name)
        if not match or value is None:
            continue
        where = [(field, int(number)) for field, number in re.findall(rf"({fields}):(-?\d+)", match[2])]
        inside = np.ones(result.samples.num_rows, bool)
        for field, number in where:
            inside &= result.samples.column(field).to_numpy() == number
        drawn = draws(metric, [result.samples], seed=seed)[0]
        group = ", ".join(_group_name(each, field, number) for field, number in where)
        share = Share(group, value, interval(drawn, confidence), int(inside.sum()))
        by_metric.setdefault(match[1], []).append(share)
    return [Split(metric, shares) for metric, shares in by_metric.items()]


def _group_name(each: EvaluationSet, field: str, number: int) -> str:
    """Name a group of samples.

    The name is the class's name if the field is a question that the set asks, else the field with its number.
    """
    if each.kind == "faces" and field in QUESTIONS:
        names = each.questions[field][0]
        if 0 <= number < len(names):
            return names[number]
    return f"{field} {number}"


def _columns(result: Result, *names: str) -> Iterator[list[Any]]:
    assert result.samples is not None
    return (result.samples.column(name).to_pylist() for name in names)


def _images(each: EvaluationSet, places: set[int]) -> dict[int, Image.Image]:
    """Images by their place in the set, which is that of their row in the table: keys may repeat."""
    found: dict[int, Image.Image] = {}
    for place, sample in enumerate(each.samples()):
        if len(found) == len(places):
            break
        if place in places:
            found[place] = _small(sample)
    return found


def _small(sample: Sample) -> Image.Image:
    image = decode(sample.image)
    image.thumbnail((_SIDE, _SIDE))
    return image

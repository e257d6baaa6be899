"""Pictures that teacher, student and baseline find for the same texts, and the classes that they confuse.

Everything comes from the stored prediction tables. Fixed rules choose queries and pictures, and never the results, so that
two reports of the same models show the same ones.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.evaluation.results import Result
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.report.examples import Candidate, captions_of, columns_of, set_images
from mobileclip2.report.page import EvaluatedModel
from mobileclip2.stages.evaluation_sets import open_set

QUERIES = 6
"""number of text queries of a set, evenly spaced over its captions"""
CONFUSED = 5
"""number of confused pairs of classes of a set, the most frequent ones of the student"""
SHOWN = 3
"""number of confused pictures of a pair"""
SETS = 4
"""number of sets of each kind, which bounds the page to about 3 MB"""


@dataclass(frozen=True)
class Ranking:
    """The best pictures of one model for a query. ``rank`` pictures come before the first right one."""

    model: str
    pictures: Sequence[Candidate]
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
    captions, image_of = captions_of(set_)
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
                Ranking(model, [Candidate(images[image], image == image_of[row]) for image in nearest[row]], ranks[row])
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
    first_of_class = {targets[row]: row for row in reversed(order)}
    examples = {taken: first_of_class[taken] for _, taken in pairs if taken in first_of_class}
    wanted = {*examples.values(), *(row for shown in rows.values() for row in shown)}
    images, totals, names = set_images(set_, wanted), Counter(targets), set_.classnames
    return [
        Confused(
            names[right],
            names[taken],
            [images[row] for row in rows[right, taken]],
            images[examples[taken]] if taken in examples else None,
            {model: count[right, taken] for model, count in counts.items()},
            totals[right],
        )
        for right, taken in pairs
    ]


def gallery_set(set_: EvaluationSet, results: Mapping[str, Result], student: str) -> GallerySet | None:
    """Return the part of a gallery that shows one set, or None for a set of another kind."""
    match set_.kind:
        case "retrieval":
            return GallerySet(set_.name, queries=queries(set_, results))
        case "classification":
            return GallerySet(set_.name, confused=confused(set_, results, student))
    return None


def gather_gallery(pipeline: Pipeline, models: Sequence[EvaluatedModel], student: str = "") -> Gallery | None:
    """Compare a student with the first teacher and the baseline on the same pictures.

    ``student`` is by default the first one that is not the baseline. Return None if no student is evaluated.
    """
    students = {model.name: model for model in models if model.kind == "student"}
    named = pipeline.profile.gate.baseline
    raw = next((name for name, model in students.items() if model.note.endswith("raw pairs")), None)
    baseline = named if named in students else raw
    student = student or next((name for name in students if name != baseline), baseline or "")
    if student not in students:
        return None
    teacher = next((model for model in models if model.kind == "teacher"), None)
    notes = {teacher.name: "teacher"} if teacher else {}
    notes[student] = "student"
    if baseline and baseline != student:
        notes[baseline] = "baseline"
    results = {model.name: {result.key: result for result in model.results} for model in models if model.name in notes}
    shown, sets = Counter[str](), []
    for key in results[student]:
        opened = open_set(pipeline.profile, key)
        shared = {name: results[name][key] for name in notes if key in results[name]}
        if shown[opened.kind] < SETS and (part := gallery_set(opened, shared, student)):
            shown[opened.kind] += 1
            sets.append(part)
    return Gallery(notes, student, sets)

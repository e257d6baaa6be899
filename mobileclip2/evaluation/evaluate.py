"""A model on a list of evaluation sets, in one pass over their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import torch

from mobileclip2.config.evaluation_tasks import TASKS, Kind
from mobileclip2.evaluation.features import Features
from mobileclip2.evaluation.metrics import measure
from mobileclip2.evaluation.ranking import nearest, rank
from mobileclip2.evaluation.results import MAIN_METRIC, Result
from mobileclip2.evaluation.sets import EvaluationSet, Sample
from mobileclip2.evaluation.zeroshot import classifier
from mobileclip2.models.image_text import ImageText
from mobileclip2.progress import Progress, Step, silent

SHOWN = 5
"""candidates of a retrieval query that the prediction table keeps, to be looked at"""


def evaluate(
    model: ImageText,
    sets: Sequence[EvaluationSet],
    *,
    batch: int = 64,
    device: str | torch.device | None = None,
    kept: Path | None = None,
    pixels: dict[str, torch.Tensor] | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """One result for each set, in their order; an image that lies in several sets is embedded once.

    ``kept`` and ``pixels``: see :class:`Features`.
    ``device`` is where the model is moved to, by default it stays. Progress counts images over all sets. The
    model is left in evaluation mode.

    Raises:
        UserError: a set is incomplete or one of its samples cannot be used, before any set is half-measured.
    """
    for each in sets:
        each.check()
    total = sum(each.size for each in sets)
    if device is not None:
        model.model.to(device)
    model.model.eval()
    features = Features(model, batch=batch, kept=kept, pixels=pixels)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % batch == 0 or done == total:
            progress(Step(done, total, "images"))

    predict: dict[Kind, Callable[[EvaluationSet, Features, Callable[[], None]], pa.Table]] = {
        "classification": _classes,
        "retrieval": _ranks,
        "association": _associations,
        "faces": _faces,
    }
    results = [_result(each, predict[each.kind](each, features, advance)) for each in sets]
    features.keep()
    return results


def curve_numbers(results: Sequence[Result]) -> dict[str, float]:
    """``{"<set>/<metric>": value}`` without the undefined ones: how results join the numbers of a training."""
    return {
        f"{result.key}/{name}": value
        for result in results
        for name, value in result.metrics.items()
        if value is not None and name != MAIN_METRIC
    }


def _result(each: EvaluationSet, table: pa.Table) -> Result:
    metrics = dict(measure(each.name, table))
    if each.kind == "classification" and len(each.classnames) < 5:
        metrics["acc5"] = None
    name = TASKS[each.name].name if each.name in TASKS else each.name
    return Result(each.name, name, metrics, samples=table)


def _classes(each: EvaluationSet, features: Features, advance: Callable[[], None]) -> pa.Table:
    weights = classifier(features, each.classnames, each.templates)
    samples, images = _images(each, features, advance)
    targets = torch.tensor([sample.target for sample in samples])
    ranks, predicted = rank(images, weights, targets, torch.arange(len(each.classnames)))
    return pa.table(
        {
            "key": [sample.key for sample in samples],
            "target": _column(targets),
            "predicted": _column(predicted),
            "rank": _column(ranks),
            **_fields(each, samples),
        }
    )


def _ranks(each: EvaluationSet, features: Features, advance: Callable[[], None]) -> pa.Table:
    samples, images = _images(each, features, advance)
    texts = features.of_texts([caption for sample in samples for caption in sample.captions])
    image = torch.arange(len(samples))
    image_of_text = image.repeat_interleave(torch.tensor([len(sample.captions) for sample in samples]))
    image_ranks, _ = rank(texts, images, image_of_text, image)
    text_ranks, _ = rank(images, texts, image, image_of_text)
    keys = [sample.key for sample in samples]
    return pa.table(
        {
            "query": ["text"] * len(texts) + ["image"] * len(images),
            "key": [keys[index] for index in image_of_text] + keys,
            "rank": _column(torch.cat([image_ranks, text_ranks])),
            "nearest": _lists([*nearest(texts, images, SHOWN), *nearest(images, texts, SHOWN)]),
        }
    )


def _associations(each: EvaluationSet, features: Features, advance: Callable[[], None]) -> pa.Table:
    """Choose the candidates nearest to the cue, as many as belong to it."""
    samples, images = _images(each, features, advance)
    rows = []
    for question, group in groupby(enumerate(samples), key=lambda item: item[1].key.rpartition("/")[0]):
        places, candidates = zip(*group, strict=True)
        (cue,) = candidates[0].captions
        (text,) = features.of_texts([f"{'An' if cue[:1].lower() in set('aeiou') else 'A'} {cue.lower()}"])
        belongs = torch.tensor([candidate.target for candidate in candidates])
        chosen = (images[list(places)] @ text).argsort(descending=True, stable=True)[: int(belongs.sum())]
        rows.append((question, len(candidates), int(belongs.sum()), int(belongs[chosen].sum()), chosen))
    keys, *numbers, choices = zip(*rows, strict=True)
    columns = zip(("candidates", "associations", "found"), numbers, strict=True)
    table = {"key": list(keys), **{name: pa.array(values, pa.int32()) for name, values in columns}}
    return pa.table({**table, "chosen": _lists(choices)})


def _faces(each: EvaluationSet, features: Features, advance: Callable[[], None]) -> pa.Table:
    samples, images = _images(each, features, advance)
    columns = {
        f"predicted_{question}": _column((images @ classifier(features, names, templates).T).argmax(1))
        for question, (names, templates) in each.questions.items()
    }
    return pa.table({"key": [sample.key for sample in samples], **columns, **_fields(each, samples)})


def _column(values: torch.Tensor) -> pa.Array:
    return pa.array(values.numpy(), pa.int32())


def _lists(rows: Sequence[torch.Tensor]) -> pa.Array:
    return pa.array([row.tolist() for row in rows], pa.list_(pa.int32()))


def _fields(each: EvaluationSet, samples: Sequence[Sample]) -> dict[str, pa.Array]:
    columns = zip(*(sample.fields for sample in samples), strict=True)
    return {name: pa.array(column, pa.int64()) for name, column in zip(each.fields, columns, strict=True)}


def _images(each: EvaluationSet, features: Features, advance: Callable[[], None]) -> tuple[list[Sample], torch.Tensor]:
    """Return the samples of the set without their pixels, and the features of their images."""
    kept: list[Sample] = []
    images = features.of_images(_keeping(each.samples(), kept), each.name, advance)
    return kept, images


def _keeping(samples: Iterable[Sample], kept: list[Sample]) -> Iterator[Sample]:
    for sample in samples:
        kept.append(replace(sample, image=b""))
        yield sample

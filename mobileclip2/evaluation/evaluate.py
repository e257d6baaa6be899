"""Evaluate a model on evaluation sets and embed each image once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

import pyarrow as pa
import torch

from mobileclip2.config.evaluation_tasks import TASKS, Kind
from mobileclip2.evaluation.features import Features
from mobileclip2.evaluation.ranking import nearest, rank
from mobileclip2.evaluation.results import MAIN_METRIC, MetricName, Result, measure
from mobileclip2.evaluation.sets import EvaluationSet, Sample
from mobileclip2.models.image_text import ImageText
from mobileclip2.progress import Progress, Step, silent

SHOWN = 5
"""Number of nearest candidates of a retrieval query in the prediction table."""


def evaluate(
    model: ImageText,
    sets: Sequence[EvaluationSet],
    *,
    batch: int = 64,
    device: str | torch.device | None = None,
    feature_cache: Path | None = None,
    pixels: dict[str, torch.Tensor] | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """Return one result for each set, in the order of ``sets``.

    The model is moved to ``device`` if it is not None, and stays in evaluation mode. Progress counts the images of all
    sets. :class:`Features` describes ``feature_cache`` and ``pixels``.

    Raises:
        UserError: a set is incomplete, or a sample is not usable. All sets are checked before the first one is evaluated.
    """
    for evaluation_set in sets:
        evaluation_set.check()
    total = sum(evaluation_set.size for evaluation_set in sets)
    if device is not None:
        model.model.to(device)
    model.model.eval()
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % batch == 0 or done == total:
            progress(Step(done, total, "images"))

    features = Features(model, batch=batch, feature_cache=feature_cache, pixels=pixels, advance=advance)
    predict: dict[Kind, Callable[[EvaluationSet, Features], pa.Table]] = {
        "classification": _predict_classes,
        "retrieval": _predict_retrieval,
        "association": _predict_associations,
        "faces": _predict_faces,
    }
    tables = [predict[evaluation_set.kind](evaluation_set, features) for evaluation_set in sets]
    features.save()
    return [_result(evaluation_set, table) for evaluation_set, table in zip(sets, tables, strict=True)]


def curve_numbers(results: Sequence[Result]) -> dict[str, float]:
    """Return the defined metrics as ``{"<set>/<metric>": value}`` for the metrics of a training."""
    return {
        str(MetricName(result.key, name)): value
        for result in results
        for name, value in result.metrics.items()
        if value is not None and name != MAIN_METRIC
    }


def _result(evaluation_set: EvaluationSet, table: pa.Table) -> Result:
    metrics = dict(measure(evaluation_set.name, table))
    if evaluation_set.kind == "classification" and len(evaluation_set.classnames) < 5:
        metrics["acc5"] = None
    name = TASKS[evaluation_set.name].name if evaluation_set.name in TASKS else evaluation_set.name
    return Result(evaluation_set.name, name, metrics, samples=table)


def _predict_classes(evaluation_set: EvaluationSet, features: Features) -> pa.Table:
    weights = features.of_classes(evaluation_set.classnames, evaluation_set.templates)
    samples, images = _images(evaluation_set, features)
    targets = torch.tensor([sample.target for sample in samples])
    ranks, predicted = rank(images, weights, targets, torch.arange(len(evaluation_set.classnames)))
    return pa.table(
        {
            "key": [sample.key for sample in samples],
            "target": _column(targets),
            "predicted": _column(predicted),
            "rank": _column(ranks),
            **_fields(evaluation_set, samples),
        }
    )


def _predict_retrieval(evaluation_set: EvaluationSet, features: Features) -> pa.Table:
    samples, images = _images(evaluation_set, features)
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


def _predict_associations(evaluation_set: EvaluationSet, features: Features) -> pa.Table:
    """Choose as many candidates as belong to the cue, the nearest ones."""
    samples, images = _images(evaluation_set, features)
    rows = []
    for question, group in groupby(enumerate(samples), key=lambda item: item[1].key.rpartition("/")[0]):
        indices, candidates = zip(*group, strict=True)
        (cue,) = candidates[0].captions
        (text,) = features.of_texts([f"{'An' if cue[:1].lower() in set('aeiou') else 'A'} {cue.lower()}"])
        belongs = torch.tensor([candidate.target for candidate in candidates])
        chosen = (images[list(indices)] @ text).argsort(descending=True, stable=True)[: int(belongs.sum())]
        rows.append((question, len(candidates), int(belongs.sum()), int(belongs[chosen].sum()), chosen))
    keys, *numbers, choices = zip(*rows, strict=True)
    columns = zip(("candidates", "associations", "found"), numbers, strict=True)
    table = {"key": list(keys), **{name: pa.array(values, pa.int32()) for name, values in columns}}
    return pa.table({**table, "chosen": _lists(choices)})


def _predict_faces(evaluation_set: EvaluationSet, features: Features) -> pa.Table:
    samples, images = _images(evaluation_set, features)
    columns = {
        f"predicted_{question}": _column((images @ features.of_classes(names, templates).T).argmax(1))
        for question, (names, templates) in evaluation_set.questions.items()
    }
    return pa.table({"key": [sample.key for sample in samples], **columns, **_fields(evaluation_set, samples)})


def _column(values: torch.Tensor) -> pa.Array:
    return pa.array(values.numpy(), pa.int32())


def _lists(rows: Sequence[torch.Tensor]) -> pa.Array:
    return pa.array([row.tolist() for row in rows], pa.list_(pa.int32()))


def _fields(evaluation_set: EvaluationSet, samples: Sequence[Sample]) -> dict[str, pa.Array]:
    columns = zip(*(sample.fields for sample in samples), strict=True)
    return {name: pa.array(column, pa.int64()) for name, column in zip(evaluation_set.fields, columns, strict=True)}


def _images(evaluation_set: EvaluationSet, features: Features) -> tuple[list[Sample], torch.Tensor]:
    """Return the samples of the set without image bytes, and the features of their images."""
    seen: list[Sample] = []

    def recorded() -> Iterator[Sample]:
        for sample in evaluation_set.samples():
            seen.append(replace(sample, image=b""))
            yield sample

    images = features.of_images(recorded(), evaluation_set.name)
    return seen, images

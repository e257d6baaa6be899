"""A model on a list of evaluation sets, in one pass over their images."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import pyarrow as pa
import torch

from mobileclip2.evaluation.features import Features
from mobileclip2.evaluation.ranking import rank
from mobileclip2.evaluation.results import MAIN, Metrics, Result, with_main
from mobileclip2.evaluation.retrieval import retrieval_metrics
from mobileclip2.evaluation.sets import EvaluationSet, Sample
from mobileclip2.evaluation.zeroshot import classification_metrics, classifier
from mobileclip2.models.image_text import ImageText
from mobileclip2.progress import Progress, Step, silent


def evaluate(
    model: ImageText,
    sets: Sequence[EvaluationSet],
    *,
    batch: int = 64,
    device: str | torch.device | None = None,
    progress: Progress = silent,
) -> list[Result]:
    """One result for each set, in their order; an image that lies in several sets is embedded once.

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
    features = Features(model, batch=batch)
    done = 0

    def advance() -> None:
        nonlocal done
        done += 1
        if done % batch == 0 or done == total:
            progress(Step(done, total, "images"))

    judge = {"classification": _classification, "retrieval": _retrieval}
    return [judge[each.kind](each, features, advance) for each in sets]


def curve_numbers(results: Sequence[Result]) -> dict[str, float]:
    """``{"<set>/<metric>": value}`` without the undefined ones: how results join the numbers of a training."""
    return {
        f"{result.key}/{name}": value
        for result in results
        for name, value in result.metrics.items()
        if value is not None and name != MAIN
    }


def _classification(each: EvaluationSet, features: Features, advance: Callable[[], None]) -> Result:
    weights = classifier(features, each.classnames, each.templates)
    samples, images = _images(each, features, advance)
    targets = torch.tensor([sample.target for sample in samples])
    classes = len(each.classnames)
    ranks, predicted = rank(images, weights, targets, torch.arange(classes))
    table = pa.table(
        {
            "key": [sample.key for sample in samples],
            "target": pa.array(targets.numpy(), pa.int32()),
            "predicted": pa.array(predicted.numpy(), pa.int32()),
            "rank": pa.array(ranks.numpy(), pa.int32()),
        }
    )
    return _result(each, classification_metrics(ranks, targets, classes), table)


def _retrieval(each: EvaluationSet, features: Features, advance: Callable[[], None]) -> Result:
    samples, images = _images(each, features, advance)
    texts = features.of_texts([caption for sample in samples for caption in sample.captions])
    image = torch.arange(len(samples))
    image_of_text = image.repeat_interleave(torch.tensor([len(sample.captions) for sample in samples]))
    image_ranks, _ = rank(texts, images, image_of_text, image)
    text_ranks, _ = rank(images, texts, image, image_of_text)
    keys = [sample.key for sample in samples]
    table = pa.table(
        {
            "query": ["text"] * len(texts) + ["image"] * len(images),
            "key": [keys[index] for index in image_of_text] + keys,
            "rank": pa.array(torch.cat([image_ranks, text_ranks]).numpy(), pa.int32()),
        }
    )
    return _result(each, retrieval_metrics(image_ranks, text_ranks), table)


def _images(each: EvaluationSet, features: Features, advance: Callable[[], None]) -> tuple[list[Sample], torch.Tensor]:
    """The set's samples without their pixels, and the features of their images."""
    kept: list[Sample] = []
    images = features.of_images(_keeping(each.samples(), kept), each.name, advance)
    return kept, images


def _keeping(samples: Iterable[Sample], kept: list[Sample]) -> Iterator[Sample]:
    for sample in samples:
        kept.append(replace(sample, image=b""))
        yield sample


def _result(each: EvaluationSet, metrics: Metrics, samples: pa.Table) -> Result:
    return Result(each.name, each.name, with_main(each.name, metrics), samples)

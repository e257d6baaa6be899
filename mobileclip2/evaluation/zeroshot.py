"""Zero-shot classification: the class whose prompts lie closest to the image (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from mobileclip2.evaluation.features import Features
from mobileclip2.evaluation.ranking import recall


def classifier(features: Features, classnames: Sequence[str], templates: Sequence[str]) -> Tensor:
    """``[classes, embed_dim]``: mean over the templates of normalised text features, normalised again."""
    prompts = [template.format(c=name) for name in classnames for template in templates]
    prompted = features.of_texts(prompts).unflatten(0, (len(classnames), len(templates)))
    return F.normalize(prompted.mean(1), dim=-1)


def class_recalls(ranks: Tensor, targets: Tensor, classes: int) -> Tensor:
    """fp64 ``[classes]``: share of each class's images that are recognised; NaN for a class without images."""
    images = torch.bincount(targets, minlength=classes)
    return torch.bincount(targets[ranks == 0], minlength=classes).double() / images


def classification_metrics(ranks: Tensor, targets: Tensor, classes: int) -> dict[str, float | None]:
    """``acc1``, ``acc5`` (None where there are fewer than 5 classes) and ``mean_per_class_recall``.

    ``ranks [n]`` is each image's number of classes before the right one. Classes without test images do not
    count in the mean, as in clip-benchmark.
    """
    return {
        "acc1": recall(ranks, 1),
        "acc5": recall(ranks, 5) if classes >= 5 else None,
        "mean_per_class_recall": float(class_recalls(ranks, targets, classes).nanmean()),
    }

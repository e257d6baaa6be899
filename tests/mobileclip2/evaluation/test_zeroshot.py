from __future__ import annotations

import math

import pytest
import torch

from mobileclip2.evaluation.features import Features
from mobileclip2.evaluation.zeroshot import class_recalls, classification_metrics, classifier
from mobileclip2.models.image_text import ImageText


def test_classifier_is_the_normalised_mean_of_normalised_prompts(model: ImageText) -> None:
    names, templates = ["dog", "cat {s}", "bee"], ["{c}", "a photo of a {c}.", "art of the {c}"]
    weights = classifier(Features(model, batch=2), names, templates)
    for row, name in zip(weights, names, strict=True):
        total = torch.zeros(model.embed_dim)
        for template in templates:
            with torch.no_grad():
                raw = model.model.encode_text(model.tokenize([template.replace("{c}", name)]))[0]
            total += raw / raw.norm()
        torch.testing.assert_close(row, total / total.norm(), atol=1e-6, rtol=0)


def test_metrics_against_plain_counting() -> None:
    torch.manual_seed(1)
    classes = 12
    targets = torch.randint(0, 9, (300,))  # three classes have no image
    ranks = torch.randint(0, classes, (300,))
    metrics = classification_metrics(ranks, targets, classes)
    per_class: dict[int, list[bool]] = {}
    for target, rank in zip(targets.tolist(), ranks.tolist(), strict=True):
        per_class.setdefault(target, []).append(rank == 0)
    recalls = [sum(hits) / len(hits) for hits in per_class.values()]
    assert metrics["acc1"] == pytest.approx(sum(map(sum, per_class.values())) / 300, abs=1e-12)
    assert metrics["acc5"] == pytest.approx(sum(rank < 5 for rank in ranks.tolist()) / 300, abs=1e-12)
    assert metrics["mean_per_class_recall"] == pytest.approx(sum(recalls) / len(recalls), abs=1e-12)


def test_classes_of_unequal_size_weigh_the_same_in_their_recall() -> None:
    ranks, targets = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 0, 1])
    metrics = classification_metrics(ranks, targets, 5)
    assert metrics["acc1"] == 0.75 and metrics["mean_per_class_recall"] == 0.5
    recalls = class_recalls(ranks, targets, 5).tolist()
    assert recalls[:2] == [1, 0] and all(math.isnan(each) for each in recalls[2:])


def test_top_5_of_fewer_classes_is_not_defined() -> None:
    assert classification_metrics(torch.tensor([0, 3]), torch.tensor([0, 1]), 4)["acc5"] is None
    assert classification_metrics(torch.tensor([0, 3]), torch.tensor([0, 1]), 5)["acc5"] == 1

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from mobileclip2.evaluation.ranking import rank
from mobileclip2.evaluation.retrieval import retrieval_metrics


def test_recalls_against_sorting_each_query_in_both_directions() -> None:
    torch.manual_seed(2)
    captions = [1, 5, 2, 3, 1, 5, 5, 4, 2, 1, 3, 5]
    owners = [image for image, count in enumerate(captions) for _ in range(count)]
    images = F.normalize(torch.randn(len(captions), 6), dim=-1)
    texts = F.normalize(images[owners] + 0.6 * torch.randn(len(owners), 6), dim=-1)
    index, owner = torch.arange(len(captions)), torch.tensor(owners)
    image_ranks, _ = rank(texts, images, owner, index)
    text_ranks, _ = rank(images, texts, index, owner)
    metrics = retrieval_metrics(image_ranks, text_ranks)
    scores = images.double() @ texts.double().T
    for k in (1, 5, 10):
        found_texts = [
            any(owners[text] == image for text in scores[image].argsort(descending=True)[:k].tolist())
            for image in range(len(captions))
        ]
        found_images = [
            owners[text] in scores[:, text].argsort(descending=True)[:k].tolist() for text in range(len(owners))
        ]
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(sum(found_texts) / len(captions))
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(sum(found_images) / len(owners))
    both = metrics["text_retrieval_recall@1"], metrics["image_retrieval_recall@1"]
    assert metrics["mean_recall@1"] == pytest.approx(sum(each or 0 for each in both) / 2)
    assert 0.3 < (both[0] or 0) < 1 and both[0] != both[1]


def test_fewer_images_than_k() -> None:
    ranks = torch.tensor([2, 0, 1])
    assert retrieval_metrics(ranks, ranks)["image_retrieval_recall@10"] == 1

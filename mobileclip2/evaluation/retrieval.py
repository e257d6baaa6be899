"""Image-text retrieval in both directions, with one or several captions an image."""

from __future__ import annotations

from torch import Tensor

from mobileclip2.evaluation.ranking import recall

RECALLS = (1, 5, 10)


def retrieval_metrics(image_ranks: Tensor, text_ranks: Tensor) -> dict[str, float | None]:
    """Recalls under clip-benchmark's names, and DataComp's mean of the two at 1.

    ``image_ranks [texts]``: number of images before the right one, for each text (image retrieval).
    ``text_ranks [images]``: number of texts before the first of the image's own (text retrieval): finding one of
    several captions is enough.
    """
    metrics: dict[str, float | None] = {}
    for k in RECALLS:
        metrics[f"image_retrieval_recall@{k}"] = recall(image_ranks, k)
        metrics[f"text_retrieval_recall@{k}"] = recall(text_ranks, k)
    metrics["mean_recall@1"] = (recall(image_ranks, 1) + recall(text_ranks, 1)) / 2
    return metrics

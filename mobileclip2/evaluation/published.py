"""Published results of MobileCLIP2 models (Faghri et al. 2025): zero-shot ImageNet, retrieval, the average of 38 sets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

_FLICKR = "retrieval/flickr_1k_test_image_text_retrieval"
_COCO = "retrieval/mscoco_2014_5k_test_image_text_retrieval"
NUMBERS = (
    ("imagenet1k", "acc1"),
    (_FLICKR, "image_retrieval_recall@1"),
    (_FLICKR, "text_retrieval_recall@1"),
    (_COCO, "image_retrieval_recall@1"),
    (_COCO, "text_retrieval_recall@1"),
    ("average", "main_metric"),
)
"""Set or average, and metric, of each published percentage."""


@dataclass(frozen=True)
class Published:
    """The published numbers of one released model."""

    name: str
    """Name of the model in open_clip."""
    parameters: tuple[float, float]
    """Parameters of the image and the text tower in millions."""
    latency: tuple[float, float]
    """Latency of the image and the text tower on an iPhone 12 Pro Max in milliseconds."""
    percent: tuple[float, float, float, float, float, float]

    @property
    def shares(self) -> Mapping[tuple[str, str], float]:
        """Return the published metrics as shares between 0 and 1, by set and metric."""
        return {number: percent / 100 for number, percent in zip(NUMBERS, self.percent, strict=True)}


MODELS: Mapping[str, Published] = {
    model.name: model
    for model in (
        Published("MobileCLIP2-S0", (11.4, 63.4), (1.5, 3.3), (71.5, 69.2, 86.6, 43.7, 62.7, 59.7)),
        Published("MobileCLIP2-S2", (35.7, 63.4), (3.6, 3.3), (77.2, 74.8, 90.4, 48.8, 66.7, 64.1)),
        Published("MobileCLIP2-B", (86.3, 63.4), (10.4, 3.3), (79.4, 76.5, 89.7, 49.9, 67.5, 65.8)),
        Published("MobileCLIP2-S3", (125.1, 123.6), (8.0, 6.6), (80.7, 77.3, 91.6, 50.9, 68.4, 66.8)),
        Published("MobileCLIP2-L-14", (304.3, 123.6), (57.9, 6.6), (81.9, 77.7, 92.0, 51.6, 69.0, 67.8)),
        Published("MobileCLIP2-S4", (321.6, 123.6), (19.6, 6.6), (81.9, 78.0, 92.4, 51.5, 69.3, 67.5)),
    )
}

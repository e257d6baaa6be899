"""Measure with clip-benchmark, including its own reader of the folders. ``test_clip_benchmark.py`` runs this file.

python clip_benchmark_numbers.py MODEL_FOLDER SET_FOLDER ...     # prints JSON: {folder: {metric: value}}
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import torch
from clip_benchmark.datasets import builder
from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

from mobileclip2.models.build import CONFIG, WEIGHTS, load
from mobileclip2.models.image_text import ImageText


class Samples(list):
    """A dataset in the form that clip-benchmark takes."""

    classes: list[str] | None


def judged(model: ImageText, folder: Path) -> dict[str, float]:
    retrieval = (folder / "dataset_type.txt").exists()
    dataset = builder.build_dataset(
        f"wds/{folder.name}",
        root=str(folder),
        transform=model.preprocess.whole,
        split="test",
        download=False,
        task="zeroshot_retrieval" if retrieval else "zeroshot_classification",
    )
    samples = Samples(dataset)
    samples.classes = dataset.classes
    collate = builder.image_captions_collate_fn if retrieval else None
    batches = torch.utils.data.DataLoader(samples, batch_size=64, collate_fn=collate)
    towers = SimpleNamespace(encode_image=model.model.encode_image, encode_text=model.model.encode_text)
    if retrieval:
        return zeroshot_retrieval.evaluate(towers, batches, model.tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10])
    return zeroshot_classification.evaluate(
        towers, batches, model.tokenize, dataset.classes, dataset.templates, "cpu", amp=False
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    stored, *folders = map(Path, sys.argv[1:])
    image_text = load(stored / CONFIG, stored / WEIGHTS)
    print(json.dumps({str(folder): judged(image_text, folder) for folder in folders}))

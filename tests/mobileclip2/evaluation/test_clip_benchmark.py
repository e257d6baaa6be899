"""Our numbers are those of clip-benchmark on the same model and sets, where it is installed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from small_sets import RETRIEVAL, WriteSet, captioned

from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.image_text import ImageText

builder = pytest.importorskip("clip_benchmark.datasets.builder")
DEMO = Path(__file__).parents[3] / "demo" / "evaluation"


class Samples(list):
    """A dataset as clip-benchmark wants it."""

    classes: list[str] | None


def judged(model: ImageText, each: EvaluationSet) -> dict[str, float]:
    """clip-benchmark's metrics, its own reading of the folder included."""
    from clip_benchmark.metrics import zeroshot_classification, zeroshot_retrieval

    dataset = builder.build_dataset(
        f"wds/{each.name}", root=str(each.path), transform=model.preprocess.whole, split="test", download=False
    )
    collate = builder.image_captions_collate_fn if each.kind == "retrieval" else None
    samples = Samples(dataset)
    samples.classes = dataset.classes
    batches = torch.utils.data.DataLoader(samples, batch_size=64, collate_fn=collate)
    towers = SimpleNamespace(encode_image=model.model.encode_image, encode_text=model.model.encode_text)
    if each.kind == "retrieval":
        return zeroshot_retrieval.evaluate(towers, batches, model.tokenize, "cpu", amp=False, recall_k_list=[1, 5, 10])
    return zeroshot_classification.evaluate(
        towers, batches, model.tokenize, dataset.classes, dataset.templates, "cpu", amp=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["emoji-861", "emoji-197", "emoji-unseen-200", "emoji-retrieval"])
def test_the_demos_sets(model: ImageText, name: str) -> None:
    each = EvaluationSet(name, DEMO / name)
    (ours,) = evaluate(model, [each])
    theirs = judged(model, each)
    shared = set(theirs) & set(ours.metrics)
    assert len(shared) >= 3
    assert {key: ours.metrics[key] for key in shared} == pytest.approx({key: theirs[key] for key in shared}, abs=1e-6)


def test_several_captions_an_image(model: ImageText, write_set: WriteSet) -> None:
    shard = [(f"s{n}", captioned(n, *(f"{word} {n}" for word in "abcde"[: 1 + n % 5]))) for n in range(40)]
    each = write_set(shard, name="pairs", files=RETRIEVAL)
    (ours,) = evaluate(model, [each])
    theirs = judged(model, each)
    assert {key: ours.metrics[key] for key in theirs} == pytest.approx(theirs, abs=1e-6)

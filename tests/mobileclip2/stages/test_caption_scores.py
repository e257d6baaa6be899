from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch

from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.shard_stage import side_name
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages import caption_scores
from mobileclip2.stages.caption_scores import captions_fit_images

KEY = "synthetic_captions/first"


@pytest.fixture
def few_are_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tiny profile has 11 samples in a group."""
    monkeypatch.setattr(caption_scores, "JUDGED", 5)


@pytest.fixture
def model_that_knows(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A teacher that gives real captions ("a red square") the similarity 1 and others 0; returns the numbers of images."""
    seen: list[int] = []

    def images(self: ImageText, pixels: torch.Tensor) -> torch.Tensor:
        seen.append(len(pixels))
        return torch.eye(2)[:1].repeat(len(pixels), 1)

    monkeypatch.setattr(ImageText, "embed_images", images)
    monkeypatch.setattr(
        ImageText,
        "embed_texts",
        lambda self, texts: torch.stack([torch.eye(2)[int(not text.startswith("a "))] for text in texts]),
    )
    return seen


def with_captions(profile: Path, caption: str) -> Pipeline:
    """Store captions as the captioner would have written them."""
    pipeline = Pipeline(load(profile))
    for key, group in (("raw_shards", "g00"), ("raw_shards", "g01"), ("captioner/first", None), ("teacher/wide", None)):
        pipeline.materialize(key, group)
    asset = pipeline.graph[KEY]
    for slice_ in asset.slices.values():
        task = pipeline.task_for(asset, slice_, "g00")
        assert task is not None
        names = []
        for shard in pipeline.inventory.group_shards("g00"):
            raw = sidecar.read(task.only("raw_shards").fetch(side_name(shard)))
            keys = raw.column("key").to_pylist()
            table = pa.table({"key": keys, "caption": [caption] * len(keys)}, schema=sidecar.CAPTIONS)
            names.append(side_name(shard))
            task.output.write(names[-1], sidecar.to_bytes(table))
        task.commit(names, samples=11)
    return pipeline


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize(("caption", "passed", "drop"), [("a good one", True, 0.0), ("nonsense", False, 1.0)])
def test_captions_that_fit_worse_than_real_ones_fail(
    tiny: Path, model_that_knows: list[int], caption: str, passed: bool, drop: float
) -> None:
    pipeline = with_captions(tiny, caption)
    verdict = captions_fit_images(pipeline, pipeline.materialize(KEY, "g00"))
    assert verdict.passed is passed and "teacher/wide" in verdict.description
    assert verdict.numbers["score_drop"] == drop and verdict.numbers["real_score"] == 1
    assert model_that_knows == [11], "each image once"


@pytest.mark.usefixtures("few_are_enough")
def test_a_bounded_number_of_pairs_is_scored(tiny: Path, model_that_knows: list[int]) -> None:
    tiny.write_text(f"{tiny.read_text()}\nchecks: {{scored_pairs: 6}}\n")
    pipeline = with_captions(tiny, "a good one")
    assert captions_fit_images(pipeline, pipeline.materialize(KEY, "g00")).numbers["scored_pairs"] == 6
    assert model_that_knows == [6]


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize(
    ("text", "reason"), [("scored_pairs: 0", "checks.scored_pairs"), ("scored_pairs: 3", "only 3")]
)
def test_few_pairs_are_not_judged(tiny: Path, text: str, reason: str, model_that_knows: list[int]) -> None:
    tiny.write_text(f"{tiny.read_text()}\nchecks: {{{text}}}\n")
    pipeline = with_captions(tiny, "nonsense")
    verdict = captions_fit_images(pipeline, pipeline.materialize(KEY, "g00"))
    assert verdict.passed and "not judged" in verdict.description and reason in verdict.description
    assert not model_that_knows


def test_captions_without_a_stored_teacher_are_not_judged(tiny: Path) -> None:
    pipeline = with_captions(tiny, "nonsense")
    pipeline.storage.delete_folder("teacher/wide")
    pipeline.forget()
    verdict = captions_fit_images(pipeline, pipeline.materialize(KEY, "g00"))
    assert verdict.passed and "no teacher is stored yet (teacher/wide, teacher/narrow)" in verdict.description

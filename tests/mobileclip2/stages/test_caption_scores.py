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
    """Lower the required number of pairs, because a group of the tiny profile has only 11 samples."""
    monkeypatch.setattr(caption_scores, "JUDGED", 5)


@pytest.fixture
def scores(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Replace the teacher's similarities: 0.9 for real captions, 0.5 for "good" and 0.1 for other captions.

    Return the number of scored pairs of each call.
    """
    seen: list[int] = []

    def of(pipeline: Pipeline, teacher: str, pairs: list[tuple[object, str, str]]) -> tuple[torch.Tensor, ...]:
        seen.append(len(pairs))
        assert teacher == "teacher/wide" and all(text.startswith("a ") for _, text, _ in pairs)
        synthetic = torch.tensor([0.5 if caption == "good" else 0.1 for _, _, caption in pairs])
        return torch.full_like(synthetic, 0.9), synthetic, torch.full_like(synthetic, 0.1)

    monkeypatch.setattr(caption_scores, "_scores", of)
    return seen


def limited(profile: Path, limits: str) -> None:
    profile.write_text(profile.read_text().replace("checks: {", f"checks: {{{limits}, "))


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
@pytest.mark.parametrize(("caption", "passed", "fit"), [("good", True, 0.5), ("nonsense", False, 0.0)])
def test_captions_that_fit_their_images_no_better_than_others_fail(
    tiny: Path, scores: list[int], caption: str, passed: bool, fit: float
) -> None:
    pipeline = with_captions(tiny, caption)
    verdict = captions_fit_images(pipeline, pipeline.materialize(KEY, "g00"))
    assert verdict.passed is passed and "teacher/wide" in verdict.description
    assert verdict.numbers["caption_fit"] == pytest.approx(fit) and scores == [11]


@pytest.mark.usefixtures("few_are_enough")
def test_a_bounded_number_of_pairs_is_scored(tiny: Path, scores: list[int]) -> None:
    limited(tiny, "scored_pairs: 6")
    pipeline = with_captions(tiny, "good")
    assert captions_fit_images(pipeline, pipeline.materialize(KEY, "g00")).numbers["scored_pairs"] == 6
    assert scores == [6]


@pytest.mark.usefixtures("few_are_enough")
@pytest.mark.parametrize(
    ("text", "reason"), [("scored_pairs: 0", "checks.scored_pairs"), ("scored_pairs: 3", "only 3")]
)
def test_few_pairs_are_not_judged(tiny: Path, text: str, reason: str, scores: list[int]) -> None:
    limited(tiny, text)
    pipeline = with_captions(tiny, "nonsense")
    verdict = captions_fit_images(pipeline, pipeline.materialize(KEY, "g00"))
    assert verdict.passed and "not judged" in verdict.description and reason in verdict.description
    assert not scores


@pytest.mark.usefixtures("few_are_enough")
def test_captions_are_not_judged_by_an_untrained_teacher(tiny: Path) -> None:
    """The tiny teachers have random weights. Each image is embedded once."""
    pipeline = with_captions(tiny, "nonsense")
    with pytest.MonkeyPatch.context() as patch:
        seen: list[int] = []
        embed = ImageText.embed_images
        patch.setattr(ImageText, "embed_images", lambda self, images: seen.append(len(images)) or embed(self, images))
        verdict = captions_fit_images(pipeline, pipeline.materialize(KEY, "g00"))
    assert verdict.passed and "does not prefer real captions" in verdict.description and seen == [11]
    assert {"real_score", "synthetic_score", "other_score"} <= set(verdict.numbers)


def test_captions_without_a_stored_teacher_are_not_judged(tiny: Path) -> None:
    pipeline = with_captions(tiny, "nonsense")
    pipeline.storage.delete_folder("teacher/wide")
    pipeline.forget()
    verdict = captions_fit_images(pipeline, pipeline.materialize(KEY, "g00"))
    assert verdict.passed and "no teacher is stored yet (teacher/wide, teacher/narrow)" in verdict.description

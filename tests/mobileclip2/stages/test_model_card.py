from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.export.parity import Parity
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.model_card import Exported, card

PARITY = [Parity(tower, "fp32", 12, 12, 0.99999, 0.99998, 0.99997) for tower in ("image", "text")]


@pytest.fixture
def pipeline(materialized: Callable[..., Pipeline]) -> Pipeline:
    return materialized("student/pupil")


@pytest.fixture
def image_text(pipeline: Pipeline) -> ImageText:
    (stored,) = pipeline.read("student/pupil")
    return load_image_text(stored, pipeline.inventory)


def test_the_card_names_every_ingredient_with_its_license(pipeline: Pipeline, image_text: ImageText) -> None:
    text = card(pipeline, "pupil", Exported(Path("out"), "openclip", False, image_text, PARITY, {"a.bin": 5}, None))
    assert text.startswith("# pupil\n") or "\n# pupil\n" in text
    for row in (
        "| source made | image-text pairs | not stated |",
        "| caption corpus clean | clean image-caption pairs | not stated |",
        "| captioner second | captioner first, trained on caption_corpus/clean | not stated |",
        "| student pupil | 4 steps of 8 on reinforced data | not stated |",
    ):
        assert row in text
    assert "| teacher wide | a ViT written out in the profile, weights wide.safetensors; logit scale 50 |" in text


def test_the_card_contains_no_path_of_the_machine(pipeline: Pipeline, image_text: ImageText) -> None:
    text = card(pipeline, "pupil", Exported(Path("out"), "onnx", True, image_text, PARITY, {"image.onnx": 5}, None))
    assert pipeline.profile.folder not in text
    assert "exported as onnx, int8." in text and "pip install numpy onnxruntime" in text

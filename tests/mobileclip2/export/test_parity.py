from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from PIL import Image

from mobileclip2.errors import UserError
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.export.model import trained
from mobileclip2.export.parity import Inputs, Parity, demand, inputs, parity
from mobileclip2.models.image_text import ImageText
from tests.tiny import CLASSES, TEMPLATES


def test_a_model_equals_itself(image_text: ImageText, found: Inputs) -> None:
    model = trained(image_text)
    measured = parity(model, model, found, "fp32", 2)
    assert [(each.tower, each.precision, each.count, each.same_input) for each in measured] == [
        ("image", "fp32", 3, 3),
        ("text", "fp32", 3, 3),
    ]
    assert all(each.lowest == pytest.approx(1) for each in measured)
    demand(measured)


def test_texts_with_different_tokens_are_counted_but_not_compared(image_text: ImageText, found: Inputs) -> None:
    model = trained(image_text)
    other = replace(model, tokens=lambda texts: model.tokens([texts[0], *("a dog" for _ in texts[1:])]))
    _, text = parity(model, other, found, "fp32", 2)
    assert (text.count, text.same_input) == (3, 1) and text.lowest == pytest.approx(1)


def test_opposite_features_have_a_cosine_of_minus_one(image_text: ImageText, found: Inputs) -> None:
    model = trained(image_text)
    image, _ = parity(model, replace(model, image=lambda pixels: -model.image(pixels)), found, "fp32", 2)
    assert image.mean == pytest.approx(-1)


@pytest.mark.parametrize("lowest", [0.99, float("nan")])
def test_a_low_cosine_is_an_error(lowest: float) -> None:
    with pytest.raises(UserError, match=r"the image tower has a cosine of .* The export was not written"):
        demand([Parity("image", "fp32", 3, 3, 1.0, 1.0, lowest)])


def test_inputs_are_the_distinct_images_and_texts_of_the_sets(tiny_template: Path) -> None:
    shapes = EvaluationSet("shapes", tiny_template / "evaluation" / "shapes")
    found = inputs([shapes, shapes], 5)
    assert len(found.images) == len(set(found.images)) == len(CLASSES)
    assert found.texts == [template.format(c=label) for template in TEMPLATES for label in CLASSES]
    assert found.calibration == found.images[-5:]


def test_a_comparison_without_an_evaluation_set_is_an_error() -> None:
    with pytest.raises(UserError, match="add a set to 'evaluation'"):
        inputs([], 5)


def test_the_comparison_computes_no_gradients(image_text: ImageText, found: Inputs) -> None:
    model = trained(image_text)
    seen: list[bool] = []
    spy = replace(model, image=lambda pixels: seen.append(torch.is_grad_enabled()) or model.image(pixels))
    parity(model, spy, found, "fp32", 2)
    assert seen and not any(seen)


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), (width % 256, height % 256, 0)).save(file, "PNG")
    return file.getvalue()


def test_an_image_that_open_clip_cannot_resize_in_memory_is_not_compared():
    pictures = [png(30_000, 2), png(40, 30), png(2, 30_000), b"no image", png(200, 2)]
    samples = [SimpleNamespace(image=picture, fault=None, captions=["a picture"]) for picture in pictures]
    retrieval = SimpleNamespace(kind="retrieval", samples=lambda: iter(samples))
    assert list(inputs([retrieval], 0).images) == [pictures[1], pictures[4]]

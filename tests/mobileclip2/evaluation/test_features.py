from __future__ import annotations

import copy
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image

from mobileclip2.data.image import decode
from mobileclip2.errors import ShardError, WeightsError
from mobileclip2.evaluation import features as features_module
from mobileclip2.evaluation.features import Features
from mobileclip2.evaluation.sets import Sample
from mobileclip2.models.image_text import ImageText
from tests.mobileclip2.evaluation.small_sets import picture


def _samples(*seeds: int) -> list[Sample]:
    return [Sample(f"s{number}", picture(seed), target=0) for number, seed in enumerate(seeds)]


@pytest.fixture
def seen(model: ImageText) -> Iterator[list[int]]:
    """Record the sizes of the image batches of the model."""
    sizes: list[int] = []
    hook = model.model.visual.register_forward_pre_hook(lambda _, args: sizes.append(len(args[0])))
    yield sizes
    hook.remove()


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_features_do_not_depend_on_the_batch_size(model: ImageText, batch: int) -> None:
    seeds = (3, 1, 4, 1, 5, 9, 2, 6, 5)
    features = Features(model, batch=batch).of_images(_samples(*seeds), "x")
    for row, seed in zip(features, seeds, strict=True):
        pixels = model.preprocess.whole(Image.open(io.BytesIO(picture(seed))).convert("RGB"))
        with torch.no_grad():
            raw = model.model.encode_image(pixels[None])[0]
        torch.testing.assert_close(row, raw / raw.norm(), atol=1e-6, rtol=0)
    assert features.dtype == torch.float32


def test_text_features_keep_the_order_of_the_texts(model: ImageText) -> None:
    texts = ["a dog", "a cat", "a dog", "a bee"]
    features = Features(model, batch=2).of_texts(texts)
    for row, text in zip(features, texts, strict=True):
        torch.testing.assert_close(row, model.embed_texts([text])[0], atol=1e-6, rtol=0)


def test_classifier_is_the_normalized_mean_of_normalized_prompts(model: ImageText) -> None:
    names, templates = ["dog", "cat {s}", "bee"], ["{c}", "a photo of a {c}.", "art of the {c}"]
    weights = Features(model, batch=2).of_classes(names, templates)
    for row, name in zip(weights, names, strict=True):
        total = torch.zeros(model.embed_dim)
        for template in templates:
            with torch.no_grad():
                raw = model.model.encode_text(model.tokenize([template.replace("{c}", name)]))[0]
            total += raw / raw.norm()
        torch.testing.assert_close(row, total / total.norm(), atol=1e-6, rtol=0)


def test_equal_images_are_embedded_once(model: ImageText, seen: list[int]) -> None:
    features = Features(model, batch=3)
    first = features.of_images(_samples(1, 2, 1, 3, 4, 2), "x")
    assert sum(seen) == 4 and max(seen) == 3
    second = features.of_images(_samples(4, 5, 1), "y")
    assert sum(seen) == 5
    assert torch.equal(second[0], first[4]) and torch.equal(second[2], first[0])


def test_batches_do_not_depend_on_timing(model: ImageText) -> None:
    samples = _samples(*(seed % 13 for seed in range(40)))
    runs = [Features(model, batch=4).of_images(samples, "x") for _ in range(3)]
    assert torch.equal(runs[0], runs[1]) and torch.equal(runs[0], runs[2])


def test_bad_images_are_all_counted_and_named(model: ImageText) -> None:
    samples = _samples(*range(12))
    samples[1] = Sample("empty", b"", target=0)
    samples[8] = Sample("half", picture(8)[:300], target=0)
    samples[11] = Sample("words", b"this is no image", target=0)
    with pytest.raises(ShardError) as error:
        Features(model, batch=2).of_images(samples, "pets")
    message = str(error.value)
    assert "evaluation set 'pets': 3 of 12 test samples are not usable" in message
    assert all(f"'{key}' (" in message for key in ("empty", "half", "words"))
    assert "empty-image" in message and "not-an-image" in message


def test_many_bad_images_do_not_flood_the_message(model: ImageText) -> None:
    samples = [Sample(f"s{number}", b"x" * number, target=0) for number in range(9)]
    with pytest.raises(ShardError, match=r"9 of 9 .*; and 4 more\."):
        Features(model).of_images(samples, "pets")


def test_weights_that_are_not_finite_are_rejected(model: ImageText) -> None:
    broken = copy.deepcopy(model)
    broken.model.visual.proj.data[0, 0] = torch.nan
    broken.model.text_projection.data[0, 0] = torch.inf
    with pytest.raises(WeightsError, match="not finite"):
        Features(broken).of_images(_samples(1), "x")
    with pytest.raises(WeightsError, match="not finite"):
        Features(broken).of_texts(["a dog"])


def test_decoding_does_not_change_the_thread_count_of_torch(model: ImageText) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        Features(model).of_images(_samples(1, 2), "x")
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_features_of_an_earlier_evaluation_are_not_recomputed(
    model: ImageText, seen: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Features(model, batch=3, feature_cache=tmp_path / "features")
    images, texts = first.of_images(_samples(1, 2, 3), "x"), first.of_texts(["a dog", "a cat"])
    first.save()
    monkeypatch.setattr(model, "embed_texts", lambda texts: pytest.fail(f"{texts} again"))
    later = Features(model, batch=3, feature_cache=tmp_path / "features")
    assert torch.equal(later.of_images(_samples(3, 1, 4), "y")[:2], images[[2, 0]]) and sum(seen) == 3 + 1
    assert torch.equal(later.of_texts(["a cat"]), texts[1:])
    later.save()
    monkeypatch.undo()
    files = sorted((tmp_path / "features" / "images").iterdir())
    assert len(files) == 2, "each evaluation adds what was new"

    for file in files:
        file.write_bytes(file.read_bytes()[:-5])
    again = Features(model, batch=3, feature_cache=tmp_path / "features")
    assert torch.equal(again.of_images(_samples(1, 2, 3), "x"), images) and sum(seen) == 4 + 3


def test_images_are_decoded_once_for_all_evaluations_of_a_training(model: ImageText, monkeypatch) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(features_module, "decode", lambda image: (decoded.append(image), decode(image))[1])
    monkeypatch.setattr(features_module, "CACHED_PIXELS", 3 * model.preprocess.size**2)
    pixels: dict[str, torch.Tensor] = {}
    first = Features(model, pixels=pixels).of_images(_samples(1, 2, 3, 4), "x")
    second = Features(model, pixels=pixels).of_images(_samples(1, 2, 3, 4), "x")
    assert torch.equal(first, second)
    assert len(pixels) == 3 and len(decoded) == 4 + 1, "as many as there is room for"

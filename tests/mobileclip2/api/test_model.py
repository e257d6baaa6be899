"""The Python interface embeds, ranks and classifies, and reports inputs that it cannot read."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mobileclip2
from mobileclip2.errors import UserError
from tests.pictures import jpeg, picture


@pytest.fixture(scope="module")
def model(folder):
    return mobileclip2.load(folder)


def test_paths_bytes_and_pictures_have_the_same_embedding(model, tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(1))
    features = model.embed_images([tmp_path / "a.jpg", str(tmp_path / "a.jpg"), jpeg(1)])
    assert features.shape == (3, 16)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    assert torch.equal(features[0], features[1])
    assert torch.equal(features[0], features[2])
    torch.testing.assert_close(model.embed_images([picture(1)])[0], features[0], atol=0.2, rtol=0)


def test_embeddings_keep_the_input_order_over_batches(model):
    pictures = [jpeg(seed) for seed in range(70)]
    features = model.embed_images(pictures)
    torch.testing.assert_close(features[[3, 40, 69]], model.embed_images([pictures[n] for n in (3, 40, 69)]))
    texts = [f"text {number} {'long ' * (number % 5)}" for number in range(70)]
    torch.testing.assert_close(model.embed_texts(texts)[[3, 69]], model.embed_texts([texts[3], texts[69]]))


def test_a_picture_ranks_itself_first(model):
    pictures = [jpeg(seed) for seed in range(5)]
    matches = model.rank(pictures[3], pictures, top=2)
    assert matches[0].index == 3
    assert matches[0].score == pytest.approx(1, abs=1e-5)
    assert [match.index for match in model.rank("a text", model.embed_images(pictures))] == [
        match.index for match in model.rank("a text", pictures)
    ]


def test_probabilities_of_all_classes_sum_to_one(model):
    (predictions,) = model.classify([jpeg(0)], ["cat", "dog", "car"])
    assert {prediction.name for prediction in predictions} == {"cat", "dog", "car"}
    assert sum(prediction.probability for prediction in predictions) == pytest.approx(1)
    assert predictions == sorted(predictions, key=lambda prediction: -prediction.probability)


def test_empty_input_gives_empty_embeddings(model):
    assert model.embed_images([]).shape == model.embed_texts([]).shape == (0, 16)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda model: model.embed_images(["gone.jpg"]), r"gone\.jpg: cannot be read: No such file"),
        (lambda model: model.embed_images([b"no picture"]), "10 bytes: .*give a JPEG"),
        (lambda model: model.embed_texts("one text"), r"write embed_texts\(\[text\]\)"),
        (lambda model: model.classify([], []), "needs a list of class names"),
        (lambda model: model.classify([], ["a"], ["no placeholder"]), "has no placeholder"),
        (lambda model: mobileclip2.load("ViT-Z:laion"), "open_clip has no model 'ViT-Z'"),
        (lambda model: mobileclip2.load("student/x"), "neither a folder nor"),
    ],
)
def test_invalid_inputs_are_reported(model, call, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MOBILECLIP2_PROFILE", raising=False)
    with pytest.raises(UserError, match=message):
        call(model)


def test_a_folder_without_a_model_is_reported(tmp_path):
    with pytest.raises(UserError, match=r"no stored model; the folder must hold open_clip_config\.json"):
        mobileclip2.load(tmp_path)


def test_the_import_is_cheap_and_lists_the_public_names():
    code = "import sys, mobileclip2; print('torch' in sys.modules, *dir(mobileclip2))"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path.cwd()).stdout
    assert printed.split() == ["False", *sorted(mobileclip2.__all__)]


def test_a_transparent_picture_embeds_like_its_file(model):
    picture_with_alpha = picture(2).convert("RGBA")
    picture_with_alpha.putalpha(100)
    with io.BytesIO() as file:
        picture_with_alpha.save(file, "PNG")
        features = model.embed_images([picture_with_alpha, file.getvalue()])
    assert torch.equal(features[0], features[1])

from __future__ import annotations

import copy

import pytest
import torch
from open_clip.coca_model import CoCa
from torch.nn import functional as F

from mobileclip2.captioners.coca import coca_of, small_coca, trunk_features
from mobileclip2.config.captioner import CoCaConfig
from mobileclip2.errors import UserError
from mobileclip2.models.image_text import ImageText

CONFIG = CoCaConfig(image_size=64, width=32, heads=2, layers=1, context_length=12, vocabulary=640)


def test_the_small_captioner_is_an_open_clip_coca(images: torch.Tensor) -> None:
    captioner = small_coca(CONFIG)
    model, tokenizer = coca_of(captioner)
    text = tokenizer(["a dog"] * 6)
    out = model(images, text)
    assert isinstance(model, CoCa)
    assert out["logits"].shape == (6, 11, 640) and out["labels"].shape == (6, 11)
    assert out["image_features"].shape == out["text_features"].shape == (6, 32)
    assert captioner.embed_images(images).shape == (6, 32)


def test_cached_features_train_the_same_as_images(images: torch.Tensor) -> None:
    model, tokenizer = coca_of(small_coca(CONFIG))
    model.train()
    text = tokenizer(["a dog", "a cat", "a big red bus", "an egg", "two eggs", "no"])
    gradients = []
    for inputs in (images, trunk_features(model, images)):
        model.zero_grad()
        torch.manual_seed(0)
        out = model(inputs, text)
        F.cross_entropy(out["logits"].flatten(0, 1), out["labels"].flatten(), ignore_index=0).backward()
        gradients.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])
    assert {"visual.proj.weight", "text_decoder.text_projection"} <= gradients[0].keys()


def test_training_does_not_change_the_trunk(images: torch.Tensor) -> None:
    model, tokenizer = coca_of(small_coca(CONFIG))
    before = copy.deepcopy(model.visual.trunk.state_dict())
    model.train()
    out = model(images, tokenizer(["a dog"] * 6))
    out["logits"].sum().backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    after = model.visual.trunk.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_weights_depend_only_on_the_seed() -> None:
    torch.manual_seed(1)
    first = small_coca(CONFIG, seed=4).model.state_dict()
    torch.manual_seed(2)
    drawn = torch.random.get_rng_state()
    second = small_coca(CONFIG, seed=4).model.state_dict()
    assert torch.equal(torch.random.get_rng_state(), drawn)
    assert all(torch.equal(first[name], second[name]) for name in first)
    other = small_coca(CONFIG, seed=5).model.state_dict()
    assert not torch.equal(first["text_decoder.text_projection"], other["text_decoder.text_projection"])


def test_a_stored_configuration_builds_the_same_model() -> None:
    captioner = small_coca(CONFIG, seed=4)
    again = small_coca(CoCaConfig(**captioner.config["small_coca"]), seed=9)
    again.model.load_state_dict(captioner.model.state_dict())
    assert again.config == captioner.config and again.preprocess == captioner.preprocess


def test_a_model_that_cannot_generate_captions_is_rejected(small_captioner: ImageText) -> None:
    silent = copy.copy(small_captioner)
    silent.model = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="Linear with ShortTokenizer cannot generate captions"):
        coca_of(silent)

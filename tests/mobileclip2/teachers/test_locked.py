"""The locked-image teacher on the weights that the demo uses."""

import pytest
import torch
import yaml

from mobileclip2.contents import Contents
from mobileclip2.errors import WeightsError
from mobileclip2.profile import Locked, Weights, load
from mobileclip2.teachers.locked import (
    PROJECTIONS,
    SPEC,
    Projections,
    build_locked,
    image_trunk_features,
    load_locked,
    save_projections,
    text_trunk_features,
)
from pipelines.profiles import PROFILES
from tests.tiny import make_tiny


@pytest.fixture(scope="module")
def spec() -> Locked:
    values = yaml.safe_load((PROFILES / "demo.yaml").read_text())["teachers"][0]["locked"]
    return Locked.model_validate({**values, "size": 64})


@pytest.fixture(scope="module")
def contents(tmp_path_factory) -> Contents:
    return Contents(load(make_tiny(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture(scope="module")
def locked(spec, contents):
    torch.set_num_threads(1)
    return build_locked(spec, contents, seed=0)


def test_projections_on_cached_features_are_the_whole_model(locked):
    projections = Projections(locked.model)
    images, texts = torch.rand(2, 3, 64, 64), ["monkey face", "a much longer caption of a red apple on a table"]
    with torch.inference_mode():
        torch.testing.assert_close(
            projections.encode_image(image_trunk_features(locked, images)), locked.model.encode_image(images)
        )
        whole = locked.tokenize.tokenizer(texts)  # padded to the full context
        torch.testing.assert_close(
            projections.encode_text(text_trunk_features(locked, texts)),
            locked.model.encode_text(whole),
            atol=1e-5,
            rtol=1e-4,
        )


def test_padding_does_not_change_a_text(locked):
    alone = locked.embed_texts(["monkey face"])
    beside = locked.embed_texts(["monkey face", "a much longer caption of a red apple on a table"])[:1]
    torch.testing.assert_close(alone, beside, atol=1e-5, rtol=1e-4)


def test_the_towers_are_frozen_and_pretrained(locked):
    trainable = {name for name, parameter in locked.model.named_parameters() if parameter.requires_grad}
    assert trainable == {"logit_scale", "visual.head.proj.weight", "text.proj.weight"}


def test_a_stored_teacher_comes_back(locked, spec, contents, tmp_path):
    save_projections(Projections(locked.model), spec, tmp_path)
    again = load_locked(spec, tmp_path / PROJECTIONS, contents)
    assert torch.equal(again.embed_texts(["cat"]), locked.embed_texts(["cat"]))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.embed_images(images), locked.embed_images(images))


def test_what_changes_no_byte_of_a_teacher_is_not_stored_with_it(locked, spec, tmp_path):
    train = spec.train.model_copy(update={"workers": 3, "log_every": 1})
    elsewhere = spec.model_copy(
        update={"train": train, "text_weights": Weights(path="/elsewhere", sha256=spec.text_weights.sha256)}
    )
    here = spec.model_copy(update={"text_weights": Weights(path="/here", sha256=spec.text_weights.sha256)})
    for number, each in enumerate((here, elsewhere)):
        save_projections(Projections(locked.model), each, tmp_path / str(number))
    assert (tmp_path / "0" / SPEC).read_bytes() == (tmp_path / "1" / SPEC).read_bytes()


def test_weights_that_are_not_installed(spec, contents):
    gone = spec.model_copy(update={"trunk_weights": spec.trunk_weights.model_copy(update={"package": "not-here"})})
    with pytest.raises(WeightsError, match="'not-here' is not installed; run 'make setup'"):
        build_locked(gone, contents)

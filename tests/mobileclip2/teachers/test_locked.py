"""Test the locked-image teacher with the weights of the demo."""

import shutil
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import yaml
from open_clip.tokenizer import HFTokenizer
from pydantic import ValidationError

from demo.tars import write_tar
from mobileclip2.config.model import Weights
from mobileclip2.config.profile import load
from mobileclip2.config.teacher import Locked
from mobileclip2.data.tar import read_samples
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.source_inventory import SourceInventory
from mobileclip2.errors import WeightsError
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
    return Locked.model_validate({**values, "size": 64, "hidden": None})


@pytest.fixture(scope="module")
def inventory(tmp_path_factory) -> SourceInventory:
    return SourceInventory(load(make_tiny(tmp_path_factory.mktemp("tiny"))))


@pytest.fixture(scope="module")
def locked(spec, inventory):
    torch.set_num_threads(1)
    return build_locked(spec, *inventory.tower_weights(spec), seed=0)


def test_projections_on_cached_features_equal_the_full_model(locked):
    projections = Projections(locked.model)
    images, texts = torch.rand(2, 3, 64, 64), ["monkey face", "a much longer caption of a red apple on a table"]
    with torch.inference_mode():
        torch.testing.assert_close(
            projections.encode_image(image_trunk_features(locked, images)), locked.model.encode_image(images)
        )
        whole = HFTokenizer.__call__(locked.tokenize, texts)  # padded to the full context
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


def test_a_stored_teacher_loads_with_the_same_embeddings(locked, spec, inventory, tmp_path):
    save_projections(Projections(locked.model), spec, {}, tmp_path)
    again = load_locked(spec, tmp_path / PROJECTIONS, *inventory.tower_weights(spec))
    assert torch.equal(again.embed_texts(["cat"]), locked.embed_texts(["cat"]))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(again.embed_images(images), locked.embed_images(images))


def test_a_hidden_layer_is_trained_and_stored(spec, inventory, tmp_path):
    spec = spec.model_copy(update={"hidden": 24})
    towers = inventory.tower_weights(spec)
    locked = build_locked(spec, *towers, seed=0)
    trainable = {name for name, parameter in locked.model.named_parameters() if parameter.requires_grad}
    hidden = {"visual.head.hidden.weight", "visual.head.hidden.bias"}
    assert trainable == {"logit_scale", "visual.head.proj.weight", "text.proj.weight"} | hidden
    assert locked.model.visual["head"].proj.in_features == 24
    save_projections(Projections(locked.model), spec, {}, tmp_path)
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(
        load_locked(spec, tmp_path / PROJECTIONS, *towers).embed_images(images), locked.embed_images(images)
    )


def test_dropout_is_applied_only_during_training(locked):
    projections = Projections(locked.model, dropout=0.5)
    widths = {"encode_image": projections.image[-1].in_features, "encode_text": projections.text.in_features}
    for name, width in widths.items():
        encode, features = getattr(projections, name), torch.ones(1, width)
        assert not torch.equal(encode(features), encode(features))
        projections.eval()
        assert torch.equal(encode(features), getattr(Projections(locked.model), name)(features))
        projections.train()


def test_settings_without_effect_on_the_teacher_are_not_stored(locked, spec, tmp_path):
    train = spec.train.model_copy(update={"workers": 3, "log_every": 1})
    elsewhere = spec.model_copy(
        update={"train": train, "text_weights": Weights(path="/elsewhere", sha256=spec.text_weights.sha256)}
    )
    here = spec.model_copy(update={"text_weights": Weights(path="/here", sha256=spec.text_weights.sha256)})
    for number, each in enumerate((here, elsewhere)):
        save_projections(Projections(locked.model), each, {}, tmp_path / str(number))
    assert (tmp_path / "0" / SPEC).read_bytes() == (tmp_path / "1" / SPEC).read_bytes()


def test_config_and_tokenizer_are_part_of_the_text_tower(tiny, spec, tmp_path):
    (tmp_path / "text").mkdir()
    (tmp_path / "text" / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "text" / "tokenizer.json").write_text("{}")
    values = yaml.safe_load(tiny.read_text())
    weights = Weights(path=str(tmp_path / "text" / "model.safetensors"))
    locked = spec.model_copy(update={"text_weights": weights, "train_on": ("caption_corpus/clean",)})
    values["teachers"].append(
        {"name": "locked", "logit_scale": 50, "locked": locked.model_dump(mode="json", exclude_none=True)}
    )
    tiny.write_text(yaml.safe_dump(values))

    def identity() -> str:
        pipeline = Pipeline(load(tiny))
        pipeline.materialize("caption_corpus/clean")
        asset = pipeline.graph["teacher/locked"]
        return pipeline.task_for(asset, asset.slices["whole"], None).fingerprint

    before = identity()
    (tmp_path / "text" / "tokenizer.json").write_text('{"other": 1}')
    assert identity() != before
    with pytest.raises(ValidationError, match="a file of a package, with config and tokenizer in its folder"):
        Locked.model_validate({**spec.model_dump(), "text_weights": {"path": "s3://bucket/model.safetensors"}})


def test_two_corpora_may_have_shards_of_the_same_name(tiny, spec):
    values = yaml.safe_load(tiny.read_text())
    (corpus,) = values["caption_corpora"]
    shutil.copytree(tiny.parent / corpus["url"], tiny.parent / "other")
    write_tar(tiny.parent / "other" / "00000.tar", other_captions(tiny.parent / corpus["url"] / "00000.tar"))
    values["caption_corpora"].append({**corpus, "name": "other", "url": "other"})
    train = spec.train.model_dump(mode="json", exclude_none=True) | {"steps": 1, "batch": 4, "warmup": 0}
    given = spec.model_dump(mode="json", exclude_none=True) | {"train": train}
    given["train_on"] = [f"caption_corpus/{corpus['name']}", "caption_corpus/other"]
    values["teachers"].append({"name": "locked", "logit_scale": 50, "locked": given})
    tiny.write_text(yaml.safe_dump(values))
    pipeline = Pipeline(load(tiny))
    for key in given["train_on"]:
        pipeline.materialize(key)
    seen = []
    with patch(
        "mobileclip2.stages.teacher.text_trunk_features",
        lambda locked, texts: seen.extend(texts) or text_trunk_features(locked, texts),
    ):
        pipeline.materialize("teacher/locked")
    assert {"another red square", "a red square on a grey ground"} <= set(seen)


def other_captions(tar: Path) -> list[tuple[str, bytes]]:
    with tar.open("rb") as file:
        return [
            (f"{sample.key}.{extension}", b"another red square" if extension == "txt" else data)
            for sample in read_samples(file, tar.name)
            for extension, data in sample.members.items()
        ]


def test_a_trunk_unknown_to_timm_is_rejected(spec, inventory):
    with pytest.raises(WeightsError, match=r"timm has no model 'tf_efficientnet_lite99'.*; set 'locked\.trunk'"):
        build_locked(spec.model_copy(update={"trunk": "tf_efficientnet_lite99"}), *inventory.tower_weights(spec))


def test_weights_of_a_missing_package_are_reported(spec, inventory):
    gone = spec.model_copy(update={"trunk_weights": spec.trunk_weights.model_copy(update={"package": "not-here"})})
    with pytest.raises(WeightsError, match="'not-here' is not installed; run 'make setup'"):
        inventory.tower_weights(gone)

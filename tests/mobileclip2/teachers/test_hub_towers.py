"""Test locked teachers whose towers come from the hub, with a cache of the hub and no network."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from pydantic import ValidationError

from benchmarks._small_models import REVISION, snapshot_folder
from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import WeightsError
from mobileclip2.fingerprint import declared
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.published_weights import check_published_weights
from mobileclip2.teachers.hub_towers import find_towers
from mobileclip2.teachers.text_encoder import POOLING
from tests.mobileclip2.teachers.test_towers import spec, text_folder, trunk_file

FROM_HUB = {"trunk": "test_vit", "trunk_weights": {"tag": "r160_in1k"}, "text": "org/encoder", "text_weights": None}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    trunk = snapshot_folder(folder, "timm/test_vit.r160_in1k")
    trunk.mkdir(parents=True)
    trunk_file(trunk, "test_vit").rename(trunk / "model.safetensors")
    text = snapshot_folder(folder, "org/encoder")
    text_folder(text, "bert")
    (text / POOLING).parent.mkdir()
    (text / POOLING).write_text(json.dumps({"pooling_mode_cls_token": True}))
    return folder


def with_locked(tiny: Path, fields: dict) -> Path:
    values = yaml.safe_load(tiny.read_text())
    train = {"steps": 1, "batch": 4, "learning_rate": 1e-3, "warmup": 0}
    locked = {"size": 48, "train_on": ["caption_corpus/clean"], "train": train, "embed_dim": 16, **fields}
    values["teachers"].append({"name": "locked", "logit_scale": 50, "locked": locked})
    tiny.write_text(yaml.safe_dump(values))
    return tiny


def test_the_teacher_is_stored_with_its_towers(tiny, cache):
    pipeline = Pipeline(load(with_locked(tiny, FROM_HUB)))
    pipeline.materialize("caption_corpus/clean")
    pipeline.materialize("teacher/locked")
    (stored,) = pipeline.read("teacher/locked")
    assert stored.manifest.facts["commits"] == {"timm/test_vit.r160_in1k": REVISION, "org/encoder": REVISION}
    assert {"trunk.safetensors", "text/model.safetensors", "text/tokenizer.json", f"text/{POOLING}"} <= {
        file.name for file in stored.manifest.files
    }
    before = load_image_text(stored, pipeline.inventory)
    shutil.rmtree(cache)
    after = load_image_text(stored, pipeline.inventory)
    assert after.model.text.pooling == "cls"
    texts, images = ["a photo of a dog", "red"], torch.rand(2, 3, 48, 48)
    assert torch.equal(after.embed_texts(texts), before.embed_texts(texts))
    assert torch.equal(after.embed_images(images), before.embed_images(images))


def test_the_towers_are_checked_before_a_run(tiny, cache):
    pipeline = Pipeline(load(with_locked(tiny, FROM_HUB)))
    pipeline.materialize("caption_corpus/clean")
    found = check_published_weights(pipeline, ["teacher/locked"])
    assert found == {"teachers.locked.locked": {"timm/test_vit.r160_in1k": REVISION, "org/encoder": REVISION}}
    shutil.rmtree(cache / "models--org--encoder")
    with pytest.raises(WeightsError, match=r"^teachers\.locked\.locked\.text: the weights org/encoder are not on this"):
        check_published_weights(pipeline, ["teacher/locked"])


def test_missing_weights_and_tags_are_reported(cache):
    (cache / "models--org--encoder" / "snapshots" / REVISION / "model.safetensors").unlink()
    with pytest.raises(
        WeightsError, match=r"locked\.text: the weights org/encoder are not on this machine, and HF_HUB_OFFL"
    ):
        find_towers(spec(**FROM_HUB))
    shutil.rmtree(cache / "models--org--encoder")
    with pytest.raises(WeightsError, match=r"locked\.text: the weights org/encoder are not on this machine"):
        find_towers(spec(**FROM_HUB))
    shutil.rmtree(cache)
    with pytest.raises(
        WeightsError, match=r"locked\.trunk_weights\.tag: the weights timm/test_vit\.r160_in1k are not on"
    ):
        find_towers(spec(**FROM_HUB))
    with pytest.raises(
        WeightsError, match=r"timm has no weights 'mine' for test_vit; set 'locked\.trunk_weights\.tag' to one"
    ):
        find_towers(spec(**{**FROM_HUB, "trunk_weights": {"tag": "mine"}}))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"text": None}, "exactly one of 'text'"),
        ({"text_weights": {"path": "x"}}, "exactly one of 'text'"),
        ({"text": None, "text_weights": {"path": "x"}, "text_revision": "1"}, "set 'text', or remove it"),
        ({"trunk_weights": {"path": "x"}, "trunk_revision": "1"}, "set the tag, or remove it"),
        ({"trunk": "test_vit.other"}, "'trunk' has the tag 'other' and 'trunk_weights' the tag 'r160_in1k'"),
    ],
)
def test_contradictory_fields_are_rejected(fields, message):
    with pytest.raises(ValidationError, match=message):
        spec(**{**FROM_HUB, **fields})


def test_a_commit_changes_the_fingerprint():
    assert declared(spec(**FROM_HUB)) != declared(spec(**FROM_HUB, text_revision="a" * 40))
    assert "text_revision" not in declared(spec(**FROM_HUB))

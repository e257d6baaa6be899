"""Every model that the documentation and the built-in profiles name can be built.

The architecture is built at full size on the meta device. A small model of the same classes is then loaded from a cache of
the hub, so that the names of repositories, tags, tokenizers and files are those that open_clip publishes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import open_clip
import pytest
import timm
import torch
import yaml

from benchmarks._small_models import (
    REVISION,
    on_meta,
    publish,
    small_config,
    snapshot_folder,
    use_small_config,
    write_cache,
)
from mobileclip2.config import profile, published
from mobileclip2.config.model import Model
from mobileclip2.config.teacher import Locked
from mobileclip2.models.build import WEIGHTS, build, from_config, save
from mobileclip2.teachers.trunk import trunk_preprocess
from pipelines.profiles import PROFILES
from tests.test_docs import BLOCKS, ROOT, SMALLEST
from tests.tiny import draw

HUB = {
    "apple/DFN2B-CLIP-ViT-L-14": "ViT-L-14-quickgelu",
    "apple/DFN2B-CLIP-ViT-L-14-39B": "ViT-L-14-quickgelu",
    "apple/mobileclip2_coca_dfn2b_s13b_context77": "coca_ViT-L-14",
    "apple/mobileclip2_coca_dfn2b_s13b_mscoco38k_s12m_context77": "coca_ViT-L-14",
}
"""Architectures of the repositories that the documentation names"""
TEXTS = ["a photo of a dog", "the red apple of the table"]


def profiles() -> Iterator[tuple[str, profile.Profile]]:
    for name, block in BLOCKS.items():
        values = yaml.safe_dump({**SMALLEST, **yaml.safe_load(block)}, sort_keys=False)
        yield name, profile.parse(values, origin=ROOT / "docs" / "page.yaml")
    for file in sorted(PROFILES.glob("*.yaml")):
        yield file.name, profile.load(file)


def models() -> Iterator[tuple[str, Model | Locked]]:
    for name, each in profiles():
        for kind in ("teachers", "captioners", "students"):
            for entry in getattr(each, kind):
                for model in (entry.model, getattr(entry, "locked", None)):
                    if model:
                        yield f"{name} {entry.name}", model


FOUND = dict(models())
DISTINCT = {model.model_dump_json(): (name, model) for name, model in FOUND.items() if isinstance(model, Model)}
MODELS = dict(DISTINCT.values())
LOCKED = {name: model for name, model in FOUND.items() if isinstance(model, Locked)}


def architecture(model: Model) -> str | None:
    """Return the name of the architecture, or None for a configuration that is written out."""
    name = model.open_clip or ""
    return HUB[name.removeprefix("hf-hub:")] if name.startswith("hf-hub:") else name or None


def test_the_documentation_names_models_of_every_origin():
    assert {"tag", "path"} <= {
        field for model in MODELS.values() if model.weights for field in model.weights.model_fields_set
    }
    assert any((model.open_clip or "").startswith("hf-hub:") for model in MODELS.values())
    assert any(model.config for model in MODELS.values())
    assert LOCKED


@pytest.mark.parametrize("name", MODELS)
def test_the_architecture_is_built_at_full_size(name):
    model = MODELS[name]
    known = architecture(model)
    config = published.architecture(known) if known else dict(model.config)
    built = on_meta(config)
    assert sum(parameter.numel() for parameter in built.parameters()) > (1e7 if known else 1e4)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Return the folder of a cache with small models, and simulate a machine without a network."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(published, "architecture", published.architecture)
    configs = open_clip.factory._MODEL_CONFIGS
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(configs))
    write_cache(folder, [each for each in map(architecture, MODELS.values()) if each])
    return folder


def with_small_weights(model: Model, cache: Path, folder: Path) -> Path | None:
    """Publish small random weights for a model where it expects them, or return their file."""
    name = architecture(model)
    if not name:
        config = model.config
    elif model.open_clip == name:
        config = use_small_config(name)
    else:
        config = small_config(published.architecture(name))
    torch.manual_seed(1)
    save(from_config({"model_cfg": dict(config)}), folder)
    if model.weights and model.weights.tag:
        publish(cache, name, model.weights.tag, folder / WEIGHTS)
    elif name and model.open_clip != name:
        repository = snapshot_folder(cache, model.open_clip.removeprefix("hf-hub:"), model.revision or REVISION)
        repository.mkdir(parents=True)
        described = {"model_cfg": config, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "interpolation": "bilinear"}}
        (repository / "open_clip_config.json").write_text(json.dumps(described))
        (folder / WEIGHTS).rename(repository / WEIGHTS)
    else:
        return folder / WEIGHTS if model.weights else None
    return None


@pytest.mark.parametrize("name", MODELS)
def test_the_model_is_loaded_with_its_tokenizer_and_preprocessing(name, cache, tmp_path):
    model = MODELS[name]
    file = with_small_weights(model, cache, tmp_path / "small")
    image_text = build(model, file)
    assert image_text.embed_texts(TEXTS).shape == (2, image_text.embed_dim)
    if model.open_clip in published.open_clip_names():
        assert torch.equal(image_text.tokenize(TEXTS), open_clip.get_tokenizer(model.open_clip)(TEXTS))
    preprocess = image_text.preprocess
    if model.weights and model.weights.tag:
        expected = published.pretrained(model.open_clip)[model.weights.tag]
        found = (preprocess.mean, preprocess.std, preprocess.interpolation, preprocess.resize)
        assert found == tuple(
            tuple(value) if isinstance(value, list) else value
            for value in (expected[key] for key in ("mean", "std", "interpolation", "resize_mode"))
        )
    if (model.open_clip or "").startswith("hf-hub:"):
        assert (preprocess.mean, preprocess.interpolation) == ((0.5, 0.4, 0.3), "bilinear")
    image = draw("red circle", name)
    assert image_text.embed_images(preprocess.whole(image)[None]).isfinite().all()


@pytest.mark.parametrize("name", LOCKED)
def test_the_trunk_of_a_locked_teacher_exists_in_timm(name):
    spec = LOCKED[name]
    preprocess = trunk_preprocess(spec)
    assert preprocess.mean == timm.get_pretrained_cfg(spec.trunk).mean
    with torch.device("meta"):
        fixed = {"img_size": spec.size} if timm.get_pretrained_cfg(spec.trunk).fixed_input_size else {}
        assert timm.create_model(spec.trunk.partition(".")[0], num_classes=0, **fixed).num_features > 0

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from mobileclip2.captioners.load import build_captioner, load_captioner
from mobileclip2.config.captioner import Captioner
from mobileclip2.errors import WeightsError
from mobileclip2.models.build import CONFIG, WEIGHTS, save
from mobileclip2.models.tensors import write_tensors

SMALL = Captioner.model_validate(
    {
        "name": "c",
        "small": {"image_size": 32, "width": 16, "heads": 2, "context_length": 12, "vocabulary": 600},
        "train_on": "raw_shards",
        "train": {"steps": 1, "batch": 2, "learning_rate": 1e-3},
    }
)
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
OPEN_CLIP = Captioner.model_validate(
    {
        "name": "c",
        "model": {
            "config": {
                "embed_dim": 16,
                "custom_text": True,
                "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
                "multimodal_cfg": TEXT,
                "vision_cfg": {
                    "image_size": 32,
                    "patch_size": 16,
                    "width": 16,
                    "layers": 1,
                    "head_width": 8,
                    "attentional_pool": True,
                    "attn_pooler_heads": 2,
                    "output_tokens": True,
                },
            }
        },
    }
)


@pytest.mark.parametrize("captioner", [SMALL, OPEN_CLIP], ids=["small", "open_clip"])
def test_a_loaded_captioner_gives_the_same_embeddings(captioner: Captioner, tmp_path: Path) -> None:
    built = build_captioner(captioner, seed=1)
    save(built, tmp_path)
    loaded = load_captioner(tmp_path / CONFIG, tmp_path / WEIGHTS)
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded.embed_images(images), built.embed_images(images))
    assert torch.equal(loaded.embed_texts(["a cat"]), built.embed_texts(["a cat"]))
    assert loaded.config == built.config and loaded.preprocess == built.preprocess


def test_the_seed_decides_the_initialization() -> None:
    one, same, other = (build_captioner(SMALL, seed=seed).model.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_weights_of_another_trunk_are_rejected(tmp_path: Path) -> None:
    write_tensors(tmp_path / "trunk.safetensors", {"a": torch.zeros(1)})
    with pytest.raises(WeightsError):
        build_captioner(SMALL, tmp_path / "trunk.safetensors", seed=0)

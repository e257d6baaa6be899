"""A stored model with random weights."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.models.build import from_config, save

CONFIG = {
    "model_cfg": {
        "embed_dim": 16,
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "fastvit_nano", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32},
        "text_cfg": {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    }
}


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a stored model."""
    path = tmp_path_factory.mktemp("model")
    save(from_config(CONFIG), path)
    return path

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.stages.load_model import load_image_text


@pytest.mark.parametrize(("key", "dim", "size"), [("teacher/narrow", 8, 48), ("student/plain", 16, 32)])
def test_a_stored_model_has_its_embedding_and_image_sizes(
    materialized: Callable[..., Pipeline], key: str, dim: int, size: int
) -> None:
    pipeline = materialized(key)
    (stored,) = pipeline.read(key)
    model = load_image_text(stored, pipeline.inventory)
    assert (model.embed_dim, model.preprocess.size) == (dim, size)
    assert model.embed_images(torch.zeros(2, 3, size, size)).shape == (2, dim)
    assert model.embed_texts(["a red square"]).shape == (1, dim)

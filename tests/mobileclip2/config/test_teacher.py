from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.teacher import Locked, Teacher

LOCKED = {
    "trunk": "tf_efficientnet_lite0",
    "trunk_weights": {"path": "weights/trunk.pth"},
    "text_weights": {"path": "text/model.safetensors"},
    "train": {"steps": 1, "batch": 2, "learning_rate": 1e-3},
}
MODEL = {"open_clip": "ViT-B-16", "weights": {"tag": "laion2b_s34b_b88k"}}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "teacher 't': name exactly one of 'model' and 'locked'"),
        ({"model": MODEL, "locked": LOCKED}, "teacher 't': name exactly one of 'model' and 'locked'"),
        ({"model": {"open_clip": "ViT-B-16"}}, "teacher 't': 'model.weights' is missing"),
        ({"model": MODEL, "logit_scale": 0}, "logit_scale"),
    ],
)
def test_a_teacher_is_pretrained_or_locked(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Teacher.model_validate({"name": "t", **fields})


@pytest.mark.parametrize("weights", [{"tag": "openai"}, {"path": "s3://bucket/model.safetensors"}])
def test_text_weights_must_be_local_or_from_a_package(weights: dict[str, str]) -> None:
    with pytest.raises(ValidationError, match="'text_weights' must be a local file or a file of a package"):
        Locked.model_validate({**LOCKED, "text_weights": weights})


def test_a_locked_teacher_trains_on_the_raw_shards() -> None:
    assert Teacher.model_validate({"name": "t", "locked": LOCKED}).locked.train_on == ("raw_shards",)

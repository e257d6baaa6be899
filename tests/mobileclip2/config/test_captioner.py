from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.captioner import Captioner

TRAIN = {"steps": 1, "batch": 2, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "captioner 'c': name exactly one of 'base', 'model' and 'small'"),
        ({"base": "b", "small": {}}, "captioner 'c': name exactly one of 'base', 'model' and 'small'"),
        ({"base": "b", "train": TRAIN}, "captioner 'c': give 'train' and 'train_on' together"),
        ({"base": "b", "train_on": "raw_shards"}, "captioner 'c': give 'train' and 'train_on' together"),
        ({"small": {}}, "captioner 'c': 'train' is missing; a small captioner has no pretrained weights"),
    ],
)
def test_a_captioner_has_one_origin_and_complete_training_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Captioner.model_validate({"name": "c", **fields})


def test_a_captioner_can_start_from_another_one_untrained() -> None:
    captioner = Captioner(name="c", base="b")
    assert captioner.train is None and captioner.captions == 1

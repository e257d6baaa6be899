from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.captioner import Captioner, CoCaConfig, GenerationSettings

TRAIN = {"steps": 1, "batch": 2, "learning_rate": 1e-3}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "captioner 'c': name exactly one of 'base', 'model' and 'small'"),
        ({"base": "b", "small": {}}, "captioner 'c': name exactly one of 'base', 'model' and 'small'"),
        ({"base": "b", "train": TRAIN}, "captioner 'c': give 'train' and 'train_on' together"),
        ({"base": "b", "train_on": "raw_shards"}, "captioner 'c': give 'train' and 'train_on' together"),
        ({"base": "b", "trunk_weights": {"path": "t.pth"}}, "captioner 'c': 'trunk_weights' belong to 'small'; remove"),
        (
            {"small": {}, "train": TRAIN, "train_on": "raw_shards", "trunk_weights": {"tag": "in1k"}},
            "captioner 'c': 'trunk_weights' have no tags; give 'path' or 'package'",
        ),
        ({"small": {}}, "captioner 'c': 'train' is missing; a small captioner has no pretrained weights"),
    ],
)
def test_a_captioner_has_one_origin_and_complete_training_settings(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Captioner.model_validate({"name": "c", **fields})


def test_a_captioner_can_start_from_another_one_untrained() -> None:
    captioner = Captioner(name="c", base="b")
    assert captioner.train is None and captioner.captions == 1


def test_profiles_are_checked_without_torch() -> None:
    code = "import sys, mobileclip2.config.captioner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_contradictory_settings_are_named() -> None:
    with pytest.raises(ValidationError, match="width 100 is not a multiple of heads 3"):
        CoCaConfig(width=100, heads=3)
    with pytest.raises(ValidationError, match="min_tokens 9 exceeds max_tokens 8"):
        GenerationSettings(max_tokens=8, min_tokens=9)
    with pytest.raises(ValidationError, match=r"std\.1\n.*greater than 0"):
        CoCaConfig(std=(0.5, 0, 0.5))
    with pytest.raises(ValidationError, match="topp"):
        GenerationSettings.model_validate({"topp": 0.5})

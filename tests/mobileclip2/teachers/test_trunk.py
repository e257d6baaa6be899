"""Test trunk names and shapes. ``test_towers.py`` tests trunks of several families."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from mobileclip2.config.teacher import Locked
from mobileclip2.errors import WeightsError
from mobileclip2.teachers.trunk import trunk_config, trunk_preprocess, trunk_width


def spec(**fields: Any) -> Locked:
    weights = {"path": "anything"}
    values = {"trunk": "test_vit", "size": 64, "trunk_weights": weights, "text_weights": weights}
    return Locked.model_validate({**values, "train": {"steps": 1, "batch": 4, "learning_rate": 1e-3}, **fields})


@pytest.mark.parametrize(
    ("trunk", "message"),
    [
        ("resnet5", r"timm has no model 'resnet5'; did you mean"),
        ("resnet50.nonsense", r"timm has no weights 'nonsense' for resnet50; set 'locked.trunk' to one of"),
        ("resnet50", r"weights of resnet50 have different means, deviations or interpolations"),
    ],
)
def test_an_unknown_or_ambiguous_trunk_name_is_rejected(trunk: str, message: str) -> None:
    with pytest.raises(WeightsError, match=message):
        trunk_config(spec(trunk=trunk))


def test_the_tag_decides_the_preprocessing() -> None:
    preprocess = trunk_preprocess(spec(trunk="resnet50.tv_in1k"))
    assert preprocess.size == 64 and preprocess.interpolation == "bilinear"
    assert preprocess.mean == pytest.approx((0.485, 0.456, 0.406))


def test_the_width_is_that_of_the_pooled_features() -> None:
    assert trunk_width(nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, 5)), 8) == 5
    with pytest.raises(WeightsError, match="the trunk returns no pooled features"):
        trunk_width(nn.Conv2d(3, 4, 1), 8)
    assert torch.is_inference_mode_enabled() is False

from __future__ import annotations

import timm
import torch
from torch import nn

from mobileclip2.models.fastvit import SmallFastVit
from mobileclip2.models.reparameterize import reparameterize


def test_timm_builds_a_model_of_the_stated_size() -> None:
    """The stated size is that of the fused model with a projection to 128 dimensions, as in the demo."""
    model = timm.create_model("fastvit_nano", num_classes=128)
    assert isinstance(model, SmallFastVit)
    assert round(sum(parameter.numel() for parameter in reparameterize(model).parameters()) / 1e6, 2) == 0.45


def test_stages_have_a_quarter_to_a_sixteenth_of_the_input_size() -> None:
    model = timm.create_model("fastvit_nano", num_classes=0).eval()
    with torch.inference_mode():
        features = model.forward_intermediates(torch.zeros(1, 3, 64, 64), intermediates_only=True)
    assert [tuple(each.shape[1:]) for each in features] == [(48, 16, 16), (96, 8, 8), (192, 4, 4)]


def test_downsampling_convolutions_are_dense() -> None:
    model = timm.create_model("fastvit_nano", num_classes=0)
    layers = [module for module in model.modules() if isinstance(module, nn.Conv2d) and module.stride == (2, 2)]
    assert layers and all(layer.groups == 1 for layer in layers)

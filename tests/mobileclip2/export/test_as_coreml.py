"""Test the traced programs. ``stages/test_export.py`` tests the conversion, which takes seconds per tower."""

from __future__ import annotations

import pytest
import torch

from mobileclip2.export import as_coreml
from mobileclip2.export.model import ImageTower, TextTower

pytestmark = pytest.mark.slow  # the exporter of torch takes seconds


def test_traced_programs_take_one_input_and_towers_take_batches(
    towers: tuple[ImageTower, TextTower], pixels: torch.Tensor, tokens: torch.Tensor
) -> None:
    traced = as_coreml.programs(*towers, pixels, tokens)
    image, text = as_coreml.towers(traced)
    with torch.inference_mode():
        torch.testing.assert_close(image(pixels), towers[0](pixels), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(text(tokens), towers[1](tokens), atol=1e-5, rtol=1e-4)
    shapes = [node.meta["val"].shape for node in traced[0].graph.nodes if node.name == "pixels"]
    assert [tuple(shape) for shape in shapes] == [(1, 3, 32, 32)]

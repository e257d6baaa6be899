from __future__ import annotations

from pathlib import Path

import torch

from mobileclip2.export import as_torchscript
from mobileclip2.export.model import ImageTower, TextTower


def test_both_towers_load_with_the_same_features(
    towers: tuple[ImageTower, TextTower], pixels: torch.Tensor, tokens: torch.Tensor, tmp_path: Path
) -> None:
    as_torchscript.write(*towers, pixels[:2], tokens[:2], tmp_path)
    image, text = as_torchscript.read(tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(image(pixels), towers[0](pixels), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(text(tokens), towers[1](tokens), atol=1e-5, rtol=1e-4)

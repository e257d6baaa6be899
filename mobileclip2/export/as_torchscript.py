"""Export both towers as traced TorchScript, which only needs torch."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from mobileclip2.export.model import Tower
from mobileclip2.models.quiet import quiet

IMAGE, TEXT = "image.pt", "text.pt"


def write(image: nn.Module, text: nn.Module, pixels: Tensor, tokens: Tensor, folder: Path) -> None:
    """Write both towers. ``pixels`` and ``tokens`` are example inputs."""
    for tower, example, name in ((image, pixels, IMAGE), (text, tokens, TEXT)):
        with quiet(), torch.inference_mode():
            torch.jit.freeze(torch.jit.trace(tower.eval(), (example,))).save(folder / name)


def read(folder: Path) -> tuple[Tower, Tower]:
    """Load both towers on the CPU."""
    with quiet():
        return torch.jit.load(folder / IMAGE), torch.jit.load(folder / TEXT)

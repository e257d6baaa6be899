"""Both towers as TorchScript, traced; they run with torch alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

IMAGE, TEXT = "image.pt", "text.pt"


def write(image: nn.Module, text: nn.Module, pixels: Tensor, tokens: Tensor, folder: Path) -> None:
    """``pixels`` and ``tokens`` are examples of what the towers take."""
    for tower, example, name in ((image, pixels, IMAGE), (text, tokens, TEXT)):
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")
            torch.jit.freeze(torch.jit.trace(tower.eval(), (example,))).save(folder / name)


def read(folder: Path) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.load(folder / IMAGE), torch.jit.load(folder / TEXT)

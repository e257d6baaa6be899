"""Which device a stage computes on."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """The named device; ``auto`` is the GPU where there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def inference(device: torch.device) -> torch.autocast:
    """The precision in which a GPU embeds and writes: bf16, in which embeddings are stored. A CPU is no faster in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

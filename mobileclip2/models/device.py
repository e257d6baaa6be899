"""Which device a stage computes on."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """Return the named device. ``auto`` is the GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def inference(device: torch.device) -> torch.autocast:
    """Use bf16 on a GPU, the precision in which embeddings are stored. A CPU is not faster in it."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

"""Choose the device and the precision of inference."""

from __future__ import annotations

import torch


def choose_device(name: str) -> torch.device:
    """Return the named device. ``auto`` selects the GPU if one is available."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def inference(device: torch.device) -> torch.autocast:
    """Return an autocast context with bf16 on a GPU, the precision of stored embeddings. bf16 is not faster on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

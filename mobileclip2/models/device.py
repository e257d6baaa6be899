"""Choose the device and the precision of inference."""

from __future__ import annotations

import torch

from mobileclip2.errors import UserError


def choose_device(name: str) -> torch.device:
    """Return the named device. ``auto`` selects the GPU if one is available.

    Raises:
        UserError: torch has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.device(name)
    except RuntimeError:
        raise UserError(f"torch has no device '{name}'; write 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'") from None


def inference(device: torch.device) -> torch.autocast:
    """Return an autocast context with bf16 on a GPU, the precision of stored embeddings. bf16 is not faster on a CPU."""
    return torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

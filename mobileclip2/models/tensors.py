"""Write tensors to disk, and compare and interpolate state dicts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from mobileclip2.store.storage import atomic_path


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file atomically.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    with atomic_path(path) as temporary:
        # save_file does not raise OSError if the disk is full
        temporary.write_bytes(save(separate(tensors)))


def separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors on the CPU. safetensors rejects tensors that share memory, so these are copied."""
    separated, memory = {}, set()
    for name, tensor in tensors.items():
        each = tensor.detach().cpu().contiguous()
        address = each.untyped_storage().data_ptr()
        separated[name] = each.clone() if address in memory else each
        memory.add(address)
    return separated


def mismatch(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> str:
    """Describe the first three tensors that are missing, unknown or of another shape. Return "" if all fit."""
    problems = [f"{name} is missing" for name in expected if name not in state]
    problems += [f"{name} is unknown" for name in state if name not in expected]
    problems += [
        f"{name} is {list(state[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    more = [f"and {len(problems) - 3} more"] if len(problems) > 3 else []
    return "; ".join(problems[:3] + more)


def interpolated(start: Mapping[str, Tensor], end: Mapping[str, Tensor], weight: float) -> dict[str, Tensor]:
    """Interpolate two state dicts of one architecture. Weight 0 returns ``start`` and 1 returns ``end``, bit for bit.

    This is WiSE-FT (Wortsman et al. 2022, *Robust fine-tuning of zero-shot models*). Batch norm statistics are
    interpolated like parameters. Integer tensors, such as batch counters, are taken from ``end`` unless the weight is 0.
    """
    if weight in (0, 1):
        return dict(end if weight else start)
    return {
        name: torch.lerp(tensor, end[name], weight) if tensor.is_floating_point() else end[name]
        for name, tensor in start.items()
    }

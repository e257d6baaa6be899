"""Tensors on disk."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save
from torch import Tensor

from mobileclip2.store.storage import atomic_path


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    # copies, since safetensors refuses tensors that share memory
    whole = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with atomic_path(path) as temporary:
        temporary.write_bytes(save(whole))  # its own writing of files does not say that a disk is full as Python does

"""Save and load the state of a training run."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mobileclip2.errors import WeightsError
from mobileclip2.models.tensors import mismatch, write_tensors
from mobileclip2.store.storage import atomic_path, explain


def save_checkpoint(
    path: Path, *, fingerprint: str, step: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Replace ``path`` atomically by the state after ``step`` steps.

    The position in the data and the random seeds are functions of the step, so they are not saved.

    Raises:
        StoreError: the disk is full or cannot be written.
    """
    state = {
        "fingerprint": fingerprint,
        "step": step,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        try:
            torch.save(state, file)
        except RuntimeError as error:
            # torch fails again when it closes the archive, which hides the original OSError
            if isinstance(error.__context__, OSError):
                explain(error.__context__, str(path))
            raise


def load_checkpoint(path: Path, *, fingerprint: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore model and optimizer from ``path`` and return the number of completed steps.

    Raises:
        WeightsError: the file is damaged, belongs to another run, or does not fit the model.
    """
    advice = (
        f"delete {path.name} to train from the start; for a store in a bucket, delete its copy below '.scratch' there"
    )
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        stored, step, weights, optimizer_state = (state[key] for key in ("fingerprint", "step", "model", "optimizer"))
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path}: not a checkpoint of this project ({type(error).__name__}); {advice}") from error
    if problems := mismatch(weights, model.state_dict()):
        raise WeightsError(f"{path}: does not fit the model: {problems}; {advice}")
    if stored != fingerprint:
        raise WeightsError(f"{path}: belongs to the run {stored}, but this run is {fingerprint}; {advice}")
    model.load_state_dict(weights)
    try:
        optimizer.load_state_dict(optimizer_state)
    except ValueError as error:
        raise WeightsError(f"{path}: the optimizer has other parameters ({error}); {advice}") from error
    return int(step)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the state dict of a model as safetensors, atomically."""
    write_tensors(path, model.state_dict())


def delete_partial_files(directory: Path) -> None:
    """Delete partial files of killed processes."""
    for leftover in directory.glob(".*.partial"):
        leftover.unlink(missing_ok=True)

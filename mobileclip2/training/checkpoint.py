"""The state of a training run on disk: enough to go on as if nothing had happened."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mobileclip2.errors import WeightsError
from mobileclip2.models.tensors import write_tensors
from mobileclip2.store.storage import atomic_path, explain


def save_checkpoint(
    path: Path, *, fingerprint: str, step: int, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Replace ``path`` by the state after ``step`` steps, at once.

    A kill leaves the old file or the new one.

    The place in the data and the random numbers are functions of the step, so the step stands for them.

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
            # closing its archive fails too, which hides why it could not be written
            if isinstance(error.__context__, OSError):
                explain(error.__context__, str(path))
            raise


def load_checkpoint(path: Path, *, fingerprint: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restores model and optimizer from ``path``; returns the number of steps they have taken.

    Raises:
        WeightsError: the file is damaged, belongs to another run, or does not fit the model (naming tensors).
    """
    advice = f"delete {path.name}, over a bucket the one below '.scratch' in there, to train from the start"
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        kept, step, weights, moments = (state[key] for key in ("fingerprint", "step", "model", "optimizer"))
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path}: not a checkpoint as written here ({type(error).__name__}); {advice}") from error
    _check_fit(path, weights, model.state_dict(), advice)
    if kept != fingerprint:
        raise WeightsError(f"{path}: belongs to the run {kept}, this one is {fingerprint}; {advice}")
    model.load_state_dict(weights)
    try:
        optimizer.load_state_dict(moments)
    except ValueError as error:
        raise WeightsError(f"{path}: the optimizer had other parameters ({error}); {advice}") from error
    return int(step)


def save_weights(path: Path, model: nn.Module) -> None:
    """Write the model's state as safetensors, whole or not at all."""
    write_tensors(path, model.state_dict())


def sweep(directory: Path) -> None:
    """Delete what killed writers left."""
    for leftover in directory.glob(".*.partial"):
        leftover.unlink(missing_ok=True)


def _check_fit(path: Path, theirs: dict[str, torch.Tensor], ours: dict[str, torch.Tensor], advice: str) -> None:
    problems = [f"{name} is missing" for name in ours if name not in theirs]
    problems += [f"{name} is not in the model" for name in theirs if name not in ours]
    problems += [
        f"{name} is {list(theirs[name].shape)}, the model has {list(tensor.shape)}"
        for name, tensor in ours.items()
        if name in theirs and theirs[name].shape != tensor.shape
    ]
    if problems:
        more = f"; and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise WeightsError(f"{path}: does not fit the model: {'; '.join(problems[:3])}{more}; {advice}")

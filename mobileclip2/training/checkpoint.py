"""Save and load the state of a training run.

A training keeps its two latest checkpoints, in two files that it writes alternately. A damaged one leaves the other.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from mobileclip2.errors import WeightsError
from mobileclip2.models.sealed_tensors import SHA256, DamagedTensors, read_metadata, read_sealed, write_sealed
from mobileclip2.models.tensors import mismatch

logger = logging.getLogger(__name__)

SLOTS = ("resume-0.safetensors", "resume-1.safetensors")
"""file names of the two latest checkpoints"""

MOMENTS = ("step", "exp_avg", "exp_avg_sq")
"""state of AdamW for each trained parameter"""

_FIELDS = {"fingerprint", "step", "metrics", SHA256}
_STEP = re.compile("[1-9][0-9]{0,17}")


@dataclass(frozen=True)
class Checkpoint:
    """The state after ``step`` steps, with tensors on the CPU."""

    path: Path
    step: int
    sha256: str
    tensors: dict[str, Tensor]


class Checkpoints:
    """The two latest checkpoints in ``directory`` of a training of ``model`` with ``optimizer``.

    The position in the data and the random seeds are functions of the step, so they are not saved. The settings of the optimizer
    are part of the fingerprint, so they are not saved either.
    """

    def __init__(
        self, directory: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, fingerprint: str, total_steps: int
    ) -> None:
        self._directory, self._model, self._optimizer = directory, model, optimizer
        self._fingerprint, self._total_steps = fingerprint, total_steps
        self._next = SLOTS[0]

    def save(self, step: int, *, metrics: str) -> str:
        """Replace the older checkpoint atomically, and return the name of its file.

        ``metrics`` is the sha256 of the metrics up to ``step``.

        Raises:
            StoreError: the disk is full or cannot be written.
        """
        name = self._next
        metadata = {"fingerprint": self._fingerprint, "step": str(step), "metrics": metrics}
        write_sealed(self._directory / name, self._state(), metadata)
        self._next = _other(name)
        return name

    def newest(self, *, at_most: float, metrics: Callable[[int], str]) -> Checkpoint | None:
        """Read the newest intact checkpoint of at most ``at_most`` steps, or return None. Warn about each damaged one.

        A checkpoint counts as damaged if the stored metrics up to its step differ from those that it was saved with.
        ``metrics`` returns the sha256 of the stored metrics up to a step.

        Raises:
            WeightsError: a checkpoint belongs to another run, or another program has altered it.
        """
        damaged = False
        for step, path in sorted(self._stated_steps(), reverse=True):
            if step > at_most:
                continue
            try:
                checkpoint, saved_metrics = self._read(path)
                if saved_metrics != metrics(checkpoint.step):
                    raise DamagedTensors(
                        f"{path}: the metrics of its training up to step {checkpoint.step} are damaged"
                    )
            except DamagedTensors as error:
                damaged = True
                logger.warning("%s; this checkpoint is not used, and the training goes back to an earlier one", error)
                continue
            if damaged:
                logger.warning("%s: the training continues from this checkpoint, after step %d", path, checkpoint.step)
            return checkpoint
        if damaged:
            logger.warning("%s: no intact checkpoint is left; the training starts from the beginning", self._directory)
        return None

    def restore(self, checkpoint: Checkpoint) -> None:
        """Load a checkpoint. The next call of :meth:`save` replaces the other one."""
        tensors = checkpoint.tensors
        self._model.load_state_dict({name: tensors[f"model.{name}"] for name in self._model.state_dict()})
        state = {}
        for number, (name, parameter) in enumerate(self._trained()):
            step, *moments = (tensors[f"optimizer.{name}.{moment}"] for moment in MOMENTS)
            # fused AdamW reads the memory of a parameter and of its moments in one order
            laid_out = [torch.empty_like(parameter, device="cpu").copy_(moment) for moment in moments]
            state[number] = dict(zip(MOMENTS, [step.clone(), *laid_out], strict=True))
        self._optimizer.load_state_dict({"state": state, "param_groups": self._optimizer.state_dict()["param_groups"]})
        self._next = _other(checkpoint.path.name)

    def _stated_steps(self) -> Iterator[tuple[float, Path]]:
        """Yield the step that each checkpoint states, or infinity if it states no step."""
        for name in SLOTS:
            path = self._directory / name
            if path.exists():
                try:
                    stated = read_metadata(path)["step"]
                    yield int(stated) if _STEP.fullmatch(stated) else math.inf, path
                except (DamagedTensors, KeyError):
                    yield math.inf, path

    def _read(self, path: Path) -> tuple[Checkpoint, str]:
        tensors, metadata = read_sealed(path)
        if (stored := metadata.get("fingerprint")) != self._fingerprint:
            raise WeightsError(
                f"{path}: belongs to the run {stored}, but this run is {self._fingerprint}; train in another folder"
            )
        if problem := self._problem(tensors, metadata):
            raise WeightsError(
                f"{path}: does not fit this training: {problem}; another program altered it, or it is of another model. "
                "Restore the file, or move it out of the folder (for a store in a bucket, out of '.scratch' there), and run again"
            )
        return Checkpoint(path, int(metadata["step"]), metadata[SHA256], tensors), metadata["metrics"]

    def _problem(self, tensors: dict[str, Tensor], metadata: dict[str, str]) -> str:
        """Describe what no checkpoint of this training contains. Return "" if there is no such thing."""
        if fields := _FIELDS.symmetric_difference(metadata):
            return f"the fields {', '.join(sorted(fields))} are missing or unknown"
        stated = metadata["step"]
        if not _STEP.fullmatch(stated) or int(stated) > self._total_steps:
            return f"its step is '{stated}', not a number from 1 to {self._total_steps}"
        expected = self._state()
        if problems := mismatch(tensors, expected):
            return problems
        for name, tensor in tensors.items():
            if tensor.dtype != expected[name].dtype:
                return f"{name} is {tensor.dtype}, expected {expected[name].dtype}"
            if not tensor.isfinite().all() and expected[name].isfinite().all():
                return f"{name} contains NaN or infinity"
            _, _, moment = name.rpartition(".")
            if name.startswith("optimizer.") and (
                (moment == "step" and not (0 <= float(tensor) <= int(stated) and float(tensor).is_integer()))
                or (moment == "exp_avg_sq" and (tensor < 0).any())
            ):
                return f"{name} is not a state of AdamW after {stated} steps"
        return ""

    def _trained(self) -> list[tuple[str, Tensor]]:
        """Return the name of each parameter of the optimizer, in its order."""
        names = {parameter: name for name, parameter in self._model.named_parameters()}
        parameters = (parameter for group in self._optimizer.param_groups for parameter in group["params"])
        return [(names[parameter], parameter) for parameter in parameters]

    def _state(self) -> dict[str, Tensor]:
        """Return the tensors of a checkpoint by name. A parameter that had no gradient yet has moments of zero."""
        state = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        for name, parameter in self._trained():
            moments = self._optimizer.state.get(parameter, {})
            for moment in MOMENTS:
                blank = torch.zeros(()) if moment == "step" else torch.zeros_like(parameter, device="cpu")
                state[f"optimizer.{name}.{moment}"] = moments.get(moment, blank)
        return state


def _other(name: str) -> str:
    return SLOTS[1 - SLOTS.index(name)]


def delete_partial_files(directory: Path) -> None:
    """Delete partial files of killed processes."""
    for pattern in (".*.partial", ".tmp*"):  # ours, and those of safetensors
        for leftover in directory.glob(pattern):
            leftover.unlink(missing_ok=True)

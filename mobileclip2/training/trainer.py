"""The training loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import ComputeError, StoreError, UserError
from mobileclip2.models.tensors import write_tensors
from mobileclip2.progress import Progress, Step, silent
from mobileclip2.training.batches import batches
from mobileclip2.training.checkpoint import Checkpoint, Checkpoints, delete_partial_files
from mobileclip2.training.distributed import TIMEOUT, World, join
from mobileclip2.training.gradients import Forward, backward, distribute, random_seed
from mobileclip2.training.journal import Journal
from mobileclip2.training.objectives import Objective
from mobileclip2.training.preemption import StopRequest, stop_on_sigterm
from mobileclip2.training.schedule import learning_rate
from mobileclip2.training.strided_pointwise import replace_strided_pointwise

if TYPE_CHECKING:
    from mobileclip2.training.data import SampleSource

WEIGHTS = "model.safetensors"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"

Numbers = dict[str, float]
"""The value of each metric by name."""

Evaluate = Callable[[nn.Module], Numbers]

Upload = Callable[..., None]
"""Callback: copy these files of the run's folder off the machine."""


class Diverged(UserError):
    """The loss or the gradient is not finite."""


def train(
    model: nn.Module,
    objective: Objective,
    source: SampleSource,
    settings: TrainSettings,
    directory: Path,
    *,
    device: str | torch.device = "cpu",
    fingerprint: str,
    evaluate: Evaluate | None = None,
    progress: Progress = silent,
    upload: Upload = lambda *names: None,
    timeout: timedelta = TIMEOUT,
) -> Numbers:
    """Train ``model`` in place, or resume from the newest intact checkpoint in ``directory``.

    Return the latest value of every metric.

    Under torchrun all processes call this with the same arguments. ``directory`` must contain the same checkpoints on all
    machines. They resume from the newest one that is intact on all of them. The main process writes ``metrics.jsonl`` (one
    object per step, the same bytes with and without restarts), ``timing.jsonl``, the two latest checkpoints and finally
    ``model.safetensors``. Frozen parameters are not trained, and modules with only frozen parameters stay in evaluation mode.

    The main process calls ``evaluate`` with the model in evaluation mode every ``evaluate_every`` steps and at the end,
    and adds the returned numbers to the metrics of the step. It calls ``upload`` after every checkpoint.

    If one of the processes gets SIGTERM and does not handle it otherwise, all stop after the same step with a checkpoint.

    Raises:
        ComputeError: a process got SIGTERM.
        Diverged: a loss or gradient is not finite.
        WeightsError: a checkpoint belongs to another run, or another program altered it.
        StoreError: machines have no checkpoint in common.
        UserError: the batch does not fit the data or the processes, or samples lack keys that the objective needs.
    """
    with join(device, timeout) as world, stop_on_sigterm() as stop:
        return _Run(
            model, objective, source, settings, Path(directory), world, fingerprint, evaluate, progress, upload, stop
        ).run()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Return the trainable parameters for AdamW, with weight decay only for tensors of two or more dimensions."""
    decayed: list[nn.Parameter] = []
    not_decayed: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (not_decayed if parameter.ndim < 2 or name.endswith("bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": not_decayed, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def train_mode(model: nn.Module) -> None:
    """Switch to training mode, except for frozen modules, so that the statistics of their batch norms stay unchanged."""
    model.train()
    for module in model.modules():
        parameters = list(module.parameters())
        if parameters and not any(parameter.requires_grad for parameter in parameters):
            module.eval()


@dataclass
class _Run:
    model: nn.Module
    objective: Objective
    source: SampleSource
    settings: TrainSettings
    directory: Path
    world: World
    fingerprint: str
    evaluate: Evaluate | None
    progress: Progress
    upload: Upload
    stop: StopRequest

    def run(self) -> Numbers:
        settings, world = self.settings, self.world
        self._prepare()
        start = self._resume()
        bf16 = settings.precision == "bf16"
        forward = distribute(Forward(self.model, self.objective, bf16=bf16, prepare=self.source.prepare), world)
        train_mode(self.model)
        self._last_report = time.monotonic()
        for step, batch in enumerate(batches(self.source, settings, world, start), start + 1):
            if step == start + 1:
                self._check_keys(batch)
            stopping = self._step(forward, batch, step)
            if self._due(step, settings.log_every, settings.checkpoint_every, settings.evaluate_every):
                self._report(step)
            if stopping and step < settings.total_steps:
                self._stop(step)
            elif self._due(step, settings.checkpoint_every):
                self._save(step)
        return self._finish()

    def _prepare(self) -> None:
        if isinstance(bias := getattr(self.model, "logit_bias", None), nn.Parameter):
            # A softmax ignores the bias, and DDP waits for the gradient of every trainable parameter.
            bias.requires_grad_(False)
        if self.settings.gradient_checkpointing:
            set_grad_checkpointing = getattr(self.model, "set_grad_checkpointing", None)
            if set_grad_checkpointing is None:
                raise UserError(
                    f"gradient_checkpointing: {type(self.model).__name__} does not support it; set it to false"
                )
            set_grad_checkpointing(True)
        if self.world.device.type == "cpu":
            replace_strided_pointwise(self.model)
        self.model.to(self.world.device)
        self.optimizer = torch.optim.AdamW(
            parameter_groups(self.model, self.settings.weight_decay),
            lr=self.settings.learning_rate,
            betas=self.settings.betas,
            fused=True,
        )
        self.parameters = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
        total = self.settings.total_steps
        self.checkpoints = Checkpoints(
            self.directory, self.model, self.optimizer, fingerprint=self.fingerprint, total_steps=total
        )
        self.metrics, self.timing = Journal(self.directory / METRICS), Journal(self.directory / TIMING)
        self.pending: list[dict[str, Tensor | float]] = []

    def _resume(self) -> int:
        self.world.barrier()  # the first process of each machine may still download the checkpoints
        checkpoint = self._common_checkpoint()
        if checkpoint:
            self.checkpoints.restore(checkpoint)
        start = checkpoint.step if checkpoint else 0
        if self.world.is_main:
            delete_partial_files(self.directory)
            self.metrics.truncate(start)
            self.timing.truncate(start)
        return start

    def _common_checkpoint(self) -> Checkpoint | None:
        """Return the newest checkpoint that is intact on all machines, or None to start from the beginning."""
        at_most = math.inf
        while True:
            found = self.checkpoints.newest(at_most=at_most, metrics=self.metrics.sha256_until)
            own = (found.step, int(found.sha256[:15], 16)) if found else (0, 0)
            everyone = self.world.gather(torch.tensor([own], device=self.world.device)).tolist()
            if all(tuple(each) == own for each in everyone):
                return found
            at_most = min(step for step, _ in everyone)
            if at_most == 0 or all(step == own[0] for step, _ in everyone):
                raise StoreError(
                    f"{self.directory}: the machines have no checkpoint in common (this one is at step {own[0]}, others are at "
                    f"{', '.join(sorted({str(step) for step, _ in everyone}))}); run again while no other process writes "
                    "checkpoints of this training"
                )

    def _check_keys(self, batch: dict[str, Tensor]) -> None:
        missing = [key for key in self.objective.needs if key not in batch]
        if missing:
            raise UserError(
                f"training data: samples have no {', '.join(missing)}, which {type(self.objective).__name__} "
                f"needs; they have {', '.join(batch)}"
            )

    def _step(self, forward: nn.Module, batch: dict[str, Tensor], step: int) -> bool:
        """Train one step. Return whether all processes are to stop after it."""
        settings, world = self.settings, self.world
        rate = learning_rate(step - 1, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        losses = backward(
            forward,
            self.objective,
            {key: batch[key] for key in self.objective.needs},
            world,
            accumulate=settings.accumulate,
            seed=lambda micro: random_seed(settings.seed, step, world.rank, micro),
        )
        norm = nn.utils.clip_grad_norm_(self.parameters, settings.clip_norm)
        self.optimizer.step()
        scale = self.model.logit_scale
        assert isinstance(scale, Tensor)
        with torch.no_grad():
            scale.clamp_(0, math.log(settings.max_logit_scale))
        values = [loss.reshape(()) for loss in losses.values()]
        *means, stopping = world.mean(torch.stack([*values, values[0].new_full((), float(self.stop.received))]))
        self.pending.append(
            {
                "step": step,
                **dict(zip(losses, means, strict=True)),
                "lr": rate,
                "logit_scale": scale.detach().exp(),
                "grad_norm": norm,
            }
        )
        return self.stop.agree(stopping)

    def _due(self, step: int, *intervals: int | None) -> bool:
        return step == self.settings.total_steps or any(every and step % every == 0 for every in intervals)

    def _report(self, step: int) -> None:
        """Copy the metrics since the last report from the device, and evaluate if it is due."""
        records = self._finite_records()
        seconds = time.monotonic() - self._last_report
        if self.evaluate and self._due(step, self.settings.evaluate_every):
            records[-1].update(self._evaluate(self.evaluate))
        self._last_report = time.monotonic()
        if self.world.is_main:
            rate = len(records) * self.settings.batch / seconds
            timing = {"seconds": seconds, "samples_per_second": rate}
            self.metrics.append(records)
            self.timing.append([{"step": step, **timing}])
            self.progress(Step(step, self.settings.total_steps, "steps", {**records[-1], **timing}))

    def _finite_records(self) -> list[Numbers]:
        records = [{name: float(value) for name, value in record.items()} for record in self.pending]
        self.pending.clear()
        for record in records:
            record["step"] = int(record["step"])
            for name, value in record.items():
                if not math.isfinite(value):
                    raise Diverged(
                        f"training diverged: {name} is {value} at step {record['step']} of "
                        f"{self.settings.total_steps} (learning rate {record['lr']:.3g}); "
                        "lower learning_rate, lengthen warmup, or look for broken samples"
                    )
        return records

    def _evaluate(self, evaluate: Evaluate) -> Numbers:
        numbers = {}
        if self.world.is_main:
            self.model.eval()
            with torch.no_grad():
                numbers = evaluate(self.model)
            train_mode(self.model)
        self.world.barrier()
        return numbers

    def _save(self, step: int) -> None:
        if not all(parameter.isfinite().all() for parameter in self.parameters):
            raise Diverged(
                f"training diverged: the weights are not finite after step {step}; lower learning_rate, or lengthen warmup"
            )
        if self.world.is_main:
            self.metrics.sync()
            name = self.checkpoints.save(step, metrics=self.metrics.sha256)
            self.upload(METRICS, TIMING, name)

    def _stop(self, step: int) -> None:
        if self.pending:
            self._report(step)
        self._save(step)
        self.world.barrier()
        raise ComputeError(
            f"training: stopped by SIGTERM after step {step} of {self.settings.total_steps}; it is saved, run again to continue"
        )

    def _finish(self) -> Numbers:
        self.model.eval()
        if self.world.is_main:
            self.metrics.verify()
            write_tensors(self.directory / WEIGHTS, self.model.state_dict())
        self.world.barrier()
        return self.metrics.last()

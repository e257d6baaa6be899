"""The one training loop of the project."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mobileclip2.config.training import TrainSettings
from mobileclip2.errors import StoreError, UserError
from mobileclip2.progress import Progress, Step, silent
from mobileclip2.training.batches import batches
from mobileclip2.training.checkpoint import load_checkpoint, save_checkpoint, save_weights, sweep
from mobileclip2.training.distributed import World, join
from mobileclip2.training.gradients import Forward, backward, distribute, random_seed
from mobileclip2.training.journal import Journal
from mobileclip2.training.objectives import Objective
from mobileclip2.training.schedule import learning_rate
from mobileclip2.training.strided_pointwise import replace_strided_pointwise

if TYPE_CHECKING:
    from mobileclip2.training.data import SampleSource

WEIGHTS = "model.safetensors"
METRICS = "metrics.jsonl"
TIMING = "timing.jsonl"
RESUME = "resume.pt"

Evaluate = Callable[[nn.Module], dict[str, float]]

Keep = Callable[..., None]
"""is told the names of files in the folder of a run that must not be lost with the machine"""


class Diverged(UserError):
    """The loss or the gradient is not a number any more."""


@dataclass(frozen=True)
class TrainResult:
    """A finished run. The trained weights are also in the model that was handed in."""

    steps: int
    numbers: dict[str, float]
    """the latest value of every number in ``metrics``"""
    weights: Path
    metrics: Path


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
    keep: Keep = lambda *names: None,
) -> TrainResult:
    """Trains ``model`` in place, or goes on where an earlier call with the same ``directory`` was stopped.

    Under torchrun every process calls this with the same arguments; the first one writes. ``directory`` holds the same
    checkpoint on every machine, and on the first gets ``metrics.jsonl`` (one object a step, the same bytes however often the run
    was stopped), ``timing.jsonl``, ``resume.pt`` and in the end ``model.safetensors``. Parameters that need
    no gradient are left out, and modules that have only such parameters stay in evaluation mode.

    ``evaluate`` gets the model in evaluation mode, in the first process, every ``evaluate_every`` steps and
    at the end; its numbers join the metrics of that step. ``keep`` is called in the first process after every checkpoint.

    Raises:
        Diverged: a loss or gradient is not finite, naming the step.
        WeightsError: ``resume.pt`` is damaged or belongs to something else.
        StoreError: processes would go on from different checkpoints.
        UserError: the batch does not fit the data or the processes, or samples lack what the objective needs.
    """
    with join(device) as world:
        return _Run(
            model, objective, source, settings, Path(directory), world, fingerprint, evaluate, progress, keep
        ).run()


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Trainable parameters for AdamW. Biases, norms' gains and the logit scale are not decayed."""
    decayed: list[nn.Parameter] = []
    free: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (free if parameter.ndim < 2 or name.endswith("bias") else decayed).append(parameter)
    groups = [{"params": decayed, "weight_decay": weight_decay}, {"params": free, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def train_mode(model: nn.Module) -> None:
    """Training mode, except for frozen modules: their batch norm keeps its statistics."""
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
    keep: Keep

    def run(self) -> TrainResult:
        settings, world = self.settings, self.world
        self._prepare()
        start = self._resume()
        bf16 = settings.precision == "bf16"
        forward = distribute(Forward(self.model, self.objective, bf16=bf16, prepare=self.source.prepare), world)
        train_mode(self.model)
        self._mark = time.monotonic()
        for step, batch in enumerate(batches(self.source, settings, world, start), start + 1):
            if step == start + 1:
                self._check_keys(batch)
            self._step(forward, batch, step)
            if self._due(step, settings.log_every, settings.checkpoint_every, settings.evaluate_every):
                self._report(step)
            if self._due(step, settings.checkpoint_every):
                self._save(step)
        return self._finish()

    def _prepare(self) -> None:
        if isinstance(bias := getattr(self.model, "logit_bias", None), nn.Parameter):
            bias.requires_grad_(False)  # a softmax does not see it, and a parameter without gradient stalls DDP
        if self.settings.gradient_checkpointing:
            switch = getattr(self.model, "set_grad_checkpointing", None)
            if switch is None:
                raise UserError(f"gradient_checkpointing: {type(self.model).__name__} cannot; set it to false")
            switch(True)
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
        self.metrics, self.timing = Journal(self.directory / METRICS), Journal(self.directory / TIMING)
        self.pending: list[dict[str, Tensor | float]] = []

    def _resume(self) -> int:
        path = self.directory / RESUME
        start = 0
        self.world.wait()  # the first process of each machine may have fetched it
        if path.exists():
            start = load_checkpoint(path, fingerprint=self.fingerprint, model=self.model, optimizer=self.optimizer)
        if (mean := float(self.world.mean(torch.tensor(float(start), device=self.world.device)))) != start:
            raise StoreError(
                f"{path}: goes on at step {start}, other machines of this training at {mean:g} on average; run again, "
                "while nothing else writes checkpoints of it"
            )
        if self.world.first:
            sweep(self.directory)
            self.metrics.cut(start)
            self.timing.cut(start)
        return start

    def _check_keys(self, batch: dict[str, Tensor]) -> None:
        missing = [key for key in self.objective.needs if key not in batch]
        if missing:
            raise UserError(
                f"training data: samples have no {', '.join(missing)}, which {type(self.objective).__name__} "
                f"needs; they have {', '.join(batch)}"
            )

    def _step(self, forward: nn.Module, batch: dict[str, Tensor], step: int) -> None:
        settings, world = self.settings, self.world
        rate = learning_rate(step - 1, settings)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        parts = backward(
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
        means = world.mean(torch.stack([part.reshape(()) for part in parts.values()]))
        losses = dict(zip(parts, means, strict=True))
        self.pending.append(
            {"step": step, **losses, "lr": rate, "logit_scale": scale.detach().exp(), "grad_norm": norm}
        )

    def _due(self, step: int, *intervals: int | None) -> bool:
        return step == self.settings.total_steps or any(every and step % every == 0 for every in intervals)

    def _report(self, step: int) -> None:
        """Fetch the numbers since the last report from the device, and evaluate if it is time."""
        records = self._finite_records()
        seconds = time.monotonic() - self._mark
        if self.evaluate and self._due(step, self.settings.evaluate_every):
            records[-1].update(self._evaluate(self.evaluate))
        self._mark = time.monotonic()
        if self.world.first:
            rate = len(records) * self.settings.batch / seconds
            timing = {"seconds": seconds, "samples_per_second": rate}
            self.metrics.append(records)
            self.timing.append([{"step": step, **timing}])
            self.progress(Step(step, self.settings.total_steps, "steps", {**records[-1], **timing}))

    def _finite_records(self) -> list[dict[str, float]]:
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

    def _evaluate(self, evaluate: Evaluate) -> dict[str, float]:
        numbers = {}
        if self.world.first:
            self.model.eval()
            with torch.no_grad():
                numbers = evaluate(self.model)
            train_mode(self.model)
        self.world.wait()
        return numbers

    def _save(self, step: int) -> None:
        if self.world.first:
            self.metrics.settle()
            save_checkpoint(
                self.directory / RESUME,
                fingerprint=self.fingerprint,
                step=step,
                model=self.model,
                optimizer=self.optimizer,
            )
            self.keep(METRICS, TIMING, RESUME)

    def _finish(self) -> TrainResult:
        self.model.eval()
        weights = self.directory / WEIGHTS
        if self.world.first:
            save_weights(weights, self.model)
        self.world.wait()
        return TrainResult(self.settings.total_steps, self.metrics.last(), weights, self.metrics.path)

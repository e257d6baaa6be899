"""What a profile says about a training run. Imports no torch: profiles are checked before it loads."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mobileclip2.fingerprint import UNDECLARED


class TrainSettings(BaseModel):
    """Length, optimizer and bookkeeping of one training run.

    Exactly one of ``steps`` and ``samples`` (seen samples) gives the length. The defaults are those of
    MobileCLIP2's ablations (Faghri et al. 2025): AdamW with betas 0.9 and 0.95, weight decay 0.2, gradients
    clipped to norm 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    steps: int | None = Field(None, ge=1)
    samples: int | None = Field(None, ge=1)
    batch: int = Field(ge=2)
    """samples a step, over all processes and all micro-batches"""
    accumulate: int = Field(1, ge=1)
    """micro-batches that a process divides its share of a batch into; the gradient stays the whole batch's"""

    learning_rate: float = Field(gt=0)
    final_learning_rate: float = Field(0.0, ge=0)
    warmup: int = Field(0, ge=0)
    """steps"""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.2, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    max_logit_scale: float = Field(100.0, gt=1)
    seed: int = Field(0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass to save memory"""

    evaluate_every: int | None = Field(None, ge=1)
    """steps between evaluations; there is always one at the end"""
    checkpoint_every: int = Field(500, ge=1, json_schema_extra=UNDECLARED)
    """steps that a killed run loses at most"""
    log_every: int = Field(20, ge=1, json_schema_extra=UNDECLARED)
    """steps between signs of life; every step is recorded whatever this is"""
    workers: int = Field(0, ge=0, json_schema_extra=UNDECLARED)
    """loader processes beside each training process; 0 loads in the training process"""

    @property
    def total_steps(self) -> int:
        """Return the number of steps, from ``steps`` or from ``samples`` and ``batch``."""
        return self.steps if self.steps is not None else max(1, (self.samples or 0) // self.batch)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.samples is None):
            raise ValueError("give the length of training as exactly one of 'steps' and 'samples'")
        if self.batch % self.accumulate:
            raise ValueError(f"batch {self.batch} does not divide into accumulate = {self.accumulate} micro-batches")
        if self.warmup > self.total_steps:
            raise ValueError(f"warmup {self.warmup} is longer than the {self.total_steps} steps of training")
        if self.final_learning_rate > self.learning_rate:
            raise ValueError(
                f"final_learning_rate {self.final_learning_rate} exceeds learning_rate {self.learning_rate}"
            )
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {self.betas} must lie in [0, 1)")
        return self

"""Training settings of a profile. This module does not import torch, so that profiles are checked quickly."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mobileclip2.config.settings import Settings, undeclared


class TrainSettings(Settings):
    """Length, optimizer and logging settings of one training run.

    Set the length with exactly one of ``steps`` and ``samples`` (samples seen). The defaults are those of
    MobileCLIP2's ablations (Faghri et al. 2025): AdamW with betas 0.9 and 0.95, weight decay 0.2, and gradient
    clipping at norm 1.
    """

    steps: int | None = Field(None, ge=1)
    samples: int | None = Field(None, ge=1)
    batch: int = Field(ge=2)
    """global batch size: samples per step over all processes and micro-batches"""
    accumulate: int = Field(1, ge=1)
    """number of micro-batches per process; the gradient is that of the global batch"""

    learning_rate: float = Field(gt=0)
    final_learning_rate: float = Field(0.0, ge=0)
    warmup: int = Field(0, ge=0)
    """number of warmup steps"""
    betas: tuple[float, float] = (0.9, 0.95)
    weight_decay: float = Field(0.2, ge=0)
    clip_norm: float = Field(1.0, gt=0)
    max_logit_scale: float = Field(100.0, gt=1)
    seed: int = Field(0, ge=0)
    precision: Literal["fp32", "bf16"] = "fp32"
    gradient_checkpointing: bool = False
    """recompute activations in the backward pass to save memory"""

    evaluate_every: int | None = Field(None, ge=1)
    """steps between evaluations; the last step is always evaluated"""
    checkpoint_every: int = undeclared(500, ge=1)
    """steps between checkpoints; a killed run loses at most this many"""
    log_every: int = undeclared(20, ge=1)
    """steps between log lines; every step is recorded regardless"""
    workers: int = undeclared(0, ge=0)
    """data loader processes per training process; 0 loads data in the training process"""

    @property
    def total_steps(self) -> int:
        """Number of steps, from ``steps`` or from ``samples`` and ``batch``."""
        return self.steps if self.steps is not None else max(1, (self.samples or 0) // self.batch)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.steps is None) == (self.samples is None):
            raise ValueError("set the length of training with exactly one of 'steps' and 'samples'")
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

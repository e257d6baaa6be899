"""The learning rate schedule."""

from __future__ import annotations

import math

from mobileclip2.config.training import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the learning rate of ``step``, counted from 0.

    It rises linearly to ``learning_rate`` at the last warm-up step. Then it follows a half cosine, which reaches
    ``final_learning_rate`` one step after the last.
    """
    peak, floor, warmup = settings.learning_rate, settings.final_learning_rate, settings.warmup
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(1, settings.total_steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * progress))

"""The learning rate as a function of the step."""

from __future__ import annotations

import math

from mobileclip2.config.training import TrainSettings


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the rate of step ``step``, counted from 0.

    It rises linearly up to ``learning_rate`` at the last warm-up step, and then falls as a half cosine.

    The cosine ends at ``final_learning_rate`` where the step after the last one would be.
    """
    peak, floor, warmup = settings.learning_rate, settings.final_learning_rate, settings.warmup
    if step < warmup:
        return peak * (step + 1) / warmup
    passed = (step - warmup) / max(1, settings.total_steps - warmup)
    return floor + (peak - floor) * 0.5 * (1 + math.cos(math.pi * passed))

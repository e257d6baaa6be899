"""Losses on L2-normalized features ``[b, D]``, for training loops of one's own.

- :func:`clip`: the symmetric cross-entropy of image-text pairs.
- :func:`distillation`: the distillation loss of an ensemble of teachers.
- :func:`reinforced`: their weighted sum over real and synthetic captions, MobileCLIP2's training loss.
- :class:`Side`: features of this process and of all processes, for training on several devices.
"""

from __future__ import annotations

from mobileclip2.training.losses import Side
from mobileclip2.training.losses import clip_loss as clip
from mobileclip2.training.losses import distill_loss as distillation
from mobileclip2.training.losses import reinforced_loss as reinforced

__all__ = ["Side", "clip", "distillation", "reinforced"]

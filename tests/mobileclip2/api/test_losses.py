"""The public losses are the losses of the training."""

from __future__ import annotations

import torch
from torch.nn import functional as F

import mobileclip2
from mobileclip2.training import losses


def test_public_losses_are_the_training_losses():
    public = mobileclip2.losses
    assert (public.clip, public.distillation, public.reinforced, public.Side) == (
        losses.clip_loss,
        losses.distill_loss,
        losses.reinforced_loss,
        losses.Side,
    )


def test_a_student_like_its_teacher_has_no_distillation_loss():
    generator = torch.Generator().manual_seed(0)
    image, text = (F.normalize(torch.randn(4, 8, generator=generator), dim=-1) for _ in "it")
    loss = mobileclip2.losses.distillation(image, text, 50.0, image, text, [8], [50.0])
    assert abs(float(loss)) < 1e-6
    assert float(mobileclip2.losses.clip(image, text, 50.0)) > 0.1

from __future__ import annotations

import math

import pytest
import torch
from open_clip.loss import ClipLoss, CoCaLoss
from torch import Tensor
from torch.nn import functional as F

from mobileclip2.errors import ProfileError, ShardError
from mobileclip2.training.losses import (
    Side,
    caption_nll,
    clip_loss,
    distill_loss,
    reinforced_loss,
)

PAIRS = 6
TEACHERS = {1: ([12], [60.0]), 2: ([12, 5], [70.0, 60.0]), 3: ([12, 5, 9], [70.0, 60.0, 4.0])}


def features(dim: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(PAIRS, dim, generator=generator, dtype=torch.float64), dim=1).to(dtype)


def ensemble(dims: list[int], seed: int) -> Tensor:
    return torch.cat([features(dim, seed + number) for number, dim in enumerate(dims)], dim=1)


def slow_softmax(rows: list[list[float]], columns: list[list[float]], scale: float) -> list[list[float]]:
    result = []
    for row in rows:
        logits = [scale * sum(a * b for a, b in zip(row, column, strict=True)) for column in columns]
        powers = [math.exp(logit - max(logits)) for logit in logits]
        result.append([power / sum(powers) for power in powers])
    return result


def slow_kl(targets: list[list[float]], predictions: list[list[float]]) -> float:
    pairs = [(p, q) for ps, qs in zip(targets, predictions, strict=True) for p, q in zip(ps, qs, strict=True) if p > 0]
    return sum(p * math.log(p / q) for p, q in pairs)


def slow_distill(
    image: Tensor,
    text: Tensor,
    scale: float,
    t_image: Tensor,
    t_text: Tensor,
    dims: list[int],
    scales: list[float],
) -> float:
    """1/(2bK) sum_k [KL(S_k(image, text) || S(image, text)) + KL(S_k(text, image) || S(text, image))]."""
    u, v, total, start = image.tolist(), text.tolist(), 0.0, 0
    for dim, teacher_scale in zip(dims, scales, strict=True):
        tu = [row[start : start + dim] for row in t_image.tolist()]
        tv = [row[start : start + dim] for row in t_text.tolist()]
        total += slow_kl(slow_softmax(tu, tv, teacher_scale), slow_softmax(u, v, scale))
        total += slow_kl(slow_softmax(tv, tu, teacher_scale), slow_softmax(v, u, scale))
        start += dim
    return total / (2 * len(image) * len(dims))


def slow_clip(image: Tensor, text: Tensor, scale: float) -> float:
    forth = slow_softmax(image.tolist(), text.tolist(), scale)
    back = slow_softmax(text.tolist(), image.tolist(), scale)
    return -sum(math.log(forth[i][i]) + math.log(back[i][i]) for i in range(len(image))) / (2 * len(image))


@pytest.mark.parametrize("teachers", TEACHERS)
@pytest.mark.parametrize("distill", [0.0, 0.75, 1.0])
@pytest.mark.parametrize("batches", [("real",), ("synthetic",), ("real", "synthetic")])
def test_reinforced_loss_equals_the_formula(teachers: int, distill: float, batches: tuple[str, ...]) -> None:
    dims, scales = TEACHERS[teachers]
    image, teacher_image = features(16, 1), ensemble(dims, 10)
    texts = {name: features(16, seed) for seed, name in enumerate(batches, 2)}
    teacher_texts = {name: ensemble(dims, 20 * seed) for seed, name in enumerate(batches, 2)}
    parts = reinforced_loss(image, texts, 14.3, teacher_image, teacher_texts, dims, scales, distill)
    expected = sum(
        (1 - distill) * slow_clip(image, texts[name], 14.3)
        + distill * slow_distill(image, texts[name], 14.3, teacher_image, teacher_texts[name], dims, scales)
        for name in batches
    )
    assert parts["loss"].item() == pytest.approx(expected, abs=1e-5)


def test_parts_are_unweighted_and_parts_with_zero_weight_are_omitted() -> None:
    arguments = (
        features(16, 1),
        {"real": features(16, 2)},
        10.0,
        features(8, 3),
        {"real": features(8, 4)},
        [8],
        [50.0],
    )
    assert set(reinforced_loss(*arguments, distill=0.0)) == {"loss", "clip/real"}
    assert set(reinforced_loss(*arguments, distill=1.0)) == {"loss", "distill/real"}
    half = reinforced_loss(*arguments, distill=0.5)
    assert half["loss"].item() == pytest.approx((half["clip/real"] + half["distill/real"]).item() / 2)


def test_distillation_loss_is_zero_if_the_student_equals_the_teacher() -> None:
    image, text = features(12, 1), features(12, 2)
    assert distill_loss(image, text, 60.0, image, text, [12], [60.0]).item() == pytest.approx(0, abs=1e-6)


def test_clip_loss_equals_that_of_open_clip() -> None:
    image, text, scale = features(16, 1), features(16, 2), torch.tensor(14.3)
    assert clip_loss(image, text, scale).item() == pytest.approx(ClipLoss()(image, text, scale).item(), abs=1e-6)


def test_averaged_teacher_softmax_gives_the_gradient_of_the_mean_divergence() -> None:
    dims, scales = TEACHERS[3]
    teacher_image, teacher_text = ensemble(dims, 10).double(), ensemble(dims, 20).double()

    def gradient_of(loss: str) -> list[Tensor]:
        image, text = features(16, 1, torch.float64), features(16, 2, torch.float64)
        inputs = [
            image.requires_grad_(),
            text.requires_grad_(),
            torch.tensor(14.3, dtype=torch.float64).requires_grad_(),
        ]
        if loss == "divergences":
            value = distill_loss(*inputs, teacher_image, teacher_text, dims, scales)
        else:
            students = [inputs[2] * image @ text.T, inputs[2] * text @ image.T]
            value = torch.zeros(())
            for student, (a, b) in zip(students, [(0, 1), (1, 0)], strict=True):
                sides = [teacher_image.split(dims, 1), teacher_text.split(dims, 1)]
                softmaxes = [
                    (scale * u @ v.T).softmax(1) for u, v, scale in zip(sides[a], sides[b], scales, strict=True)
                ]
                value = value + F.cross_entropy(student, torch.stack(softmaxes).mean(0)) / 2
        return list(torch.autograd.grad(value, inputs))

    for ours, theirs in zip(gradient_of("divergences"), gradient_of("cross-entropy"), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_processes_with_gathered_columns_average_to_the_joined_batch() -> None:
    dims, scales = TEACHERS[2]
    sides = [features(16, 1), features(16, 2), ensemble(dims, 10), ensemble(dims, 20)]

    def loss(image: Side, text: Side, t_image: Side, t_text: Side) -> Tensor:
        parts = reinforced_loss(image, {"real": text}, 14.3, t_image, {"real": t_text}, dims, scales, 0.75)
        return parts["loss"]

    joined = loss(*(Side(side, side) for side in sides))
    shares = [loss(*(Side(side[rows], side) for side in sides)) for rows in (slice(0, 3), slice(3, 6))]
    # the rows of one process are an easier batch, so this fails if they are only compared with their own columns
    assert torch.stack(shares).mean().item() == pytest.approx(joined.item(), abs=1e-6)


def test_logits_are_fp32_with_half_precision_features_and_autocast() -> None:
    image, text, teacher = features(16, 1), features(16, 2), features(8, 3)
    exact = distill_loss(image.bfloat16().float(), text.bfloat16().float(), 100.0, teacher, teacher, [8], [90.0])
    with torch.autocast("cpu", torch.bfloat16):
        rounded = distill_loss(image.bfloat16(), text.bfloat16(), 100.0, teacher, teacher, [8], [90.0])
        contrastive = clip_loss(image, text, 100.0)
    assert rounded.item() == pytest.approx(exact.item(), rel=1e-6)
    assert contrastive.item() == pytest.approx(slow_clip(image, text, 100.0), rel=1e-5)


def test_extreme_scales_stay_finite() -> None:
    image = features(4, 1).requires_grad_()
    loss = distill_loss(image, -features(4, 1), 1000.0, features(4, 1), features(4, 1), [4], [1000.0])
    (gradient,) = torch.autograd.grad(loss, image)
    assert loss.isfinite() and gradient.isfinite().all()


def test_a_missing_scale_is_rejected() -> None:
    with pytest.raises(ProfileError, match="1 scales for 2 teachers"):
        distill_loss(*[features(4, 1)] * 2, 10.0, *[features(8, 2)] * 2, [4, 4], [50.0])


@pytest.mark.parametrize("scale", [-3.0, 0.0, math.inf, math.nan])
def test_an_invalid_scale_is_rejected(scale: float) -> None:
    with pytest.raises(ProfileError, match=f"{scale} of teacher 1"):
        distill_loss(*[features(4, 1)] * 2, 10.0, *[features(8, 2)] * 2, [4, 4], [50.0, scale])


@pytest.mark.parametrize("wrong", ["image", "text"])
def test_dimensions_that_do_not_add_up_are_rejected(wrong: str) -> None:
    teachers = [features(8 if side == wrong else 9, 2) for side in ("image", "text")]
    with pytest.raises(ShardError, match=r"8 columns.*\[4, 5\] add up to 9"):
        distill_loss(*[features(4, 1)] * 2, 10.0, *teachers, [4, 5], [50.0, 60.0])


def test_caption_nll_gives_the_loss_of_open_clip() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(PAIRS, 5, 11, generator=generator)
    tokens = torch.randint(1, 11, (PAIRS, 5), generator=generator)
    tokens[0, 2:], tokens[3, 4:] = 0, 0
    image, text = features(16, 1), features(16, 2)
    contrastive, caption = CoCaLoss(2.0, 1.0)(image, text, logits, tokens, torch.tensor(14.3))
    mean = caption_nll(logits, tokens, 0).sum() / (tokens != 0).sum()
    assert 2 * mean.item() == pytest.approx(caption.item(), rel=1e-6)
    assert clip_loss(image, text, 14.3).item() == pytest.approx(contrastive.item(), rel=1e-6)
    assert caption_nll(logits, tokens, 0)[0].item() == pytest.approx(
        F.cross_entropy(logits[0, :2], tokens[0, :2], reduction="sum").item(), rel=1e-6
    )


def test_a_teacher_without_a_scale_is_left_out() -> None:
    image, text, one, other = features(16, 1), features(16, 2), (features(8, 3), features(8, 4)), features(12, 5)
    both = [torch.cat([side, other], 1) for side in one]
    alone = distill_loss(image, text, 14.3, *one, [8], [50.0]).item()
    assert distill_loss(image, text, 14.3, *both, [8, 12], [50.0, None]).item() == pytest.approx(alone, abs=1e-7)
    assert distill_loss(image, text, 14.3, *both, [8, 12], [50.0, 30.0]).item() != pytest.approx(alone, abs=1e-3)

"""Losses on features, as pure functions.

Every loss is a mean over rows: the samples of this process. A row is compared with columns: the samples of
all processes. With one process the two are the same and a plain tensor stands for both. The mean over
processes of such a loss is that of the joined batch, and so is the gradient, because gathered columns carry
theirs back (``distributed``).

Logits are computed in fp32 (fp64 for fp64 features) under any autocast.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from mobileclip2.errors import ProfileError, ShardError


class Side(NamedTuple):
    """One side of a batch of pairs: L2-normalized features of images, or of texts."""

    rows: Tensor
    """``[b, D]``, the samples of this process"""
    columns: Tensor
    """``[n, D]``, the samples of all processes"""


Features = Tensor | Side


def clip_loss(image: Features, text: Features, logit_scale: Tensor | float) -> Tensor:
    """Symmetric cross-entropy of matching pairs (Radford et al. 2021). ``logit_scale`` is 1 / temperature."""
    image, text = _side(image), _side(text)
    matching = logit_scale * (exact(image.rows) * exact(text.rows)).sum(1)
    to_text = _logits(image.rows, text.columns, logit_scale).logsumexp(1)
    to_image = _logits(text.rows, image.columns, logit_scale).logsumexp(1)
    return ((to_text + to_image) / 2 - matching).mean()


def distill_loss(
    image: Features,
    text: Features,
    logit_scale: Tensor | float,
    teacher_image: Features,
    teacher_text: Features,
    teacher_dims: Sequence[int],
    teacher_scales: Sequence[float | None],
) -> Tensor:
    """``1 / (2bK) sum_k KL(S_k(image, text) || S(image, text)) + KL(S_k(text, image) || S(text, image))``.

    ``S`` is the row softmax of scaled similarities (Vasu et al. 2024, section 4). The features of the K
    teachers lie side by side in ``[b, sum(teacher_dims)]``, each teacher's L2-normalized; each has its own
    fixed scale, the student's is learned. K counts those that have one: None leaves a teacher out.

    Raises:
        ProfileError: not one positive logit scale for each teacher.
        ShardError: the dimensions do not add up to the width of the stored embeddings.
    """
    image, text = _side(image), _side(text)
    teacher_image, teacher_text = _side(teacher_image), _side(teacher_text)
    check_scales(teacher_dims, teacher_scales)
    _check_dims(teacher_dims, teacher_image, teacher_text)
    to_text = _logits(image.rows, text.columns, logit_scale).log_softmax(1)
    to_image = _logits(text.rows, image.columns, logit_scale).log_softmax(1)
    divergences = []
    for part, scale in zip(_slices(teacher_dims), teacher_scales, strict=True):
        if scale is None:
            continue
        targets = _logits(teacher_image.rows[:, part], teacher_text.columns[:, part], scale).log_softmax(1)
        divergences.append(_mean_kl(targets, to_text))
        targets = _logits(teacher_text.rows[:, part], teacher_image.columns[:, part], scale).log_softmax(1)
        divergences.append(_mean_kl(targets, to_image))
    return torch.stack(divergences).mean()


def reinforced_loss(
    image: Features,
    texts: dict[str, Features],
    logit_scale: Tensor | float,
    teacher_image: Features,
    teacher_texts: dict[str, Features],
    teacher_dims: Sequence[int],
    teacher_scales: Sequence[float | None],
    distill: float = 1.0,
) -> dict[str, Tensor]:
    """``sum over caption batches of (1 - distill) * CLIP + distill * distillation``, and its parts.

    ``texts`` holds one or both of the batches ``real`` and ``synthetic``, ``teacher_texts`` the teachers'
    features of the same. Parts are unweighted and named ``clip/<batch>`` and ``distill/<batch>``; one of
    weight 0 is not computed. The sum is ``loss``.
    """
    parts: dict[str, Tensor] = {}
    for name, text in texts.items():
        if distill < 1:
            parts[f"clip/{name}"] = clip_loss(image, text, logit_scale)
        if distill > 0:
            parts[f"distill/{name}"] = distill_loss(
                image, text, logit_scale, teacher_image, teacher_texts[name], teacher_dims, teacher_scales
            )
    weights = {"clip": 1 - distill, "distill": distill}
    weighted = [weights[name.partition("/")[0]] * part for name, part in parts.items()]
    return {"loss": torch.stack(weighted).sum(), **parts}


def caption_nll(logits: Tensor, tokens: Tensor, pad_id: int) -> Tensor:
    """Negative log-likelihood of each caption, summed over its tokens: ``[b, L, V]``, ``[b, L]`` -> ``[b]``.

    ``logits[:, i]`` predicts ``tokens[:, i]``; padding counts nothing.
    """
    each = F.cross_entropy(exact(logits).flatten(0, 1), tokens.flatten(), ignore_index=pad_id, reduction="none")
    return each.view(tokens.shape).sum(1)


def check_scales(teacher_dims: Sequence[int], teacher_scales: Sequence[float | None]) -> None:
    """Raise ``ProfileError`` unless every teacher has a positive logit scale, or None to be left out."""
    if len(teacher_scales) != len(teacher_dims) or not teacher_dims:
        raise ProfileError(
            f"logit_scale: {len(teacher_scales)} scales for {len(teacher_dims)} teachers; give one for each, "
            "in the order of the dataset's teachers"
        )
    for number, scale in enumerate(teacher_scales):
        if scale is not None and not 0 < scale < float("inf"):
            raise ProfileError(f"logit_scale: {scale} of teacher {number} is not a positive number")


def _check_dims(teacher_dims: Sequence[int], *sides: Side) -> None:
    for side in sides:
        if side.rows.shape[1] != sum(teacher_dims):
            raise ShardError(
                f"teacher embeddings have {side.rows.shape[1]} columns, but the teachers' dimensions "
                f"{list(teacher_dims)} add up to {sum(teacher_dims)}; "
                "make the reinforced dataset anew with these teachers"
            )


def _side(features: Features) -> Side:
    return features if isinstance(features, Side) else Side(features, features)


def exact(x: Tensor) -> Tensor:
    """``x`` in at least fp32."""
    return x if x.dtype == torch.float64 else x.float()


def _logits(rows: Tensor, columns: Tensor, scale: Tensor | float) -> Tensor:
    # autocast would multiply in bf16, whose steps at a logit of 100 are a half
    with torch.autocast(rows.device.type, enabled=False):
        return scale * exact(rows) @ exact(columns).T


def _slices(dims: Sequence[int]) -> list[slice]:
    return [slice(end - dim, end) for dim, end in zip(dims, accumulate(dims), strict=True)]


def _mean_kl(targets: Tensor, predictions: Tensor) -> Tensor:
    """Mean over rows of KL(targets || predictions), both log-probabilities."""
    return F.kl_div(predictions, targets, reduction="batchmean", log_target=True)

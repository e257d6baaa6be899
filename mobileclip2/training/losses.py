"""Losses on features, as pure functions.

Each loss is a mean over rows, the samples of this process. Rows are compared with columns, the samples of all processes.
A plain tensor stands for both if there is one process. The mean of a loss over processes is the loss of the global batch.
Gradients flow through gathered columns, so the mean of the gradients is the gradient of the global batch too.

Logits are fp32, or fp64 for fp64 features, under any autocast.
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
    """L2-normalized features of the images or of the texts of a batch."""

    rows: Tensor
    """``[b, D]``, the samples of this process."""
    columns: Tensor
    """``[n, D]``, the samples of all processes."""


Features = Tensor | Side


def clip_loss(image: Features, text: Features, logit_scale: Tensor | float) -> Tensor:
    """Compute the symmetric cross-entropy of pairs (Radford et al. 2021). ``logit_scale`` is 1 / temperature."""
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
    """Compute the distillation loss of an ensemble of teachers (Vasu et al. 2024, section 4).

    It is ``1 / (2bK) sum_k KL(S_k(image, text) || S(image, text)) + KL(S_k(text, image) || S(text, image))``, where ``S``
    is the row softmax of scaled similarities. The features of the teachers are concatenated to
    ``[b, sum(teacher_dims)]``, and the features of each teacher are L2-normalized. A teacher with the scale None is left
    out and K counts the others.

    Raises:
        ProfileError: the number of logit scales is wrong, or a scale is not positive.
        ShardError: the sum of the dimensions differs from the width of the stored embeddings.
    """
    image, text = _side(image), _side(text)
    teacher_image, teacher_text = _side(teacher_image), _side(teacher_text)
    check_scales(teacher_dims, teacher_scales)
    for side in (teacher_image, teacher_text):
        if side.rows.shape[1] != sum(teacher_dims):
            raise ShardError(
                f"teacher embeddings have {side.rows.shape[1]} columns, but the teachers' dimensions "
                f"{list(teacher_dims)} add up to {sum(teacher_dims)}; rebuild the reinforced dataset with these teachers"
            )
    to_text = _logits(image.rows, text.columns, logit_scale).log_softmax(1)
    to_image = _logits(text.rows, image.columns, logit_scale).log_softmax(1)
    divergences = []
    for end, dim, scale in zip(accumulate(teacher_dims), teacher_dims, teacher_scales, strict=True):
        if scale is None:
            continue
        own = slice(end - dim, end)
        targets = _logits(teacher_image.rows[:, own], teacher_text.columns[:, own], scale).log_softmax(1)
        divergences.append(_mean_kl(targets, to_text))
        targets = _logits(teacher_text.rows[:, own], teacher_image.columns[:, own], scale).log_softmax(1)
        divergences.append(_mean_kl(targets, to_image))
    return torch.stack(divergences).mean()


def reinforced_loss(
    image: Features,
    texts: dict[str, Features],
    logit_scale: Tensor | float,
    teacher_image: Features | None,
    teacher_texts: dict[str, Features],
    teacher_dims: Sequence[int],
    teacher_scales: Sequence[float | None],
    distill: float = 1.0,
) -> dict[str, Tensor]:
    """Return ``loss``, the sum over caption batches of ``(1 - distill) * CLIP + distill * distillation``, and its terms.

    ``texts`` contains ``real`` or ``synthetic`` captions, or both. ``teacher_texts`` contains the features of the
    teachers for the same captions. The terms ``clip/<batch>`` and ``distill/<batch>`` are not weighted. Terms of weight 0
    are not computed, so that ``distill=0`` needs no features of teachers.
    """
    terms: dict[str, Tensor] = {}
    for name, text in texts.items():
        if distill < 1:
            terms[f"clip/{name}"] = clip_loss(image, text, logit_scale)
        if distill > 0:
            assert teacher_image is not None
            terms[f"distill/{name}"] = distill_loss(
                image, text, logit_scale, teacher_image, teacher_texts[name], teacher_dims, teacher_scales
            )
    weights = {"clip": 1 - distill, "distill": distill}
    weighted = [weights[name.partition("/")[0]] * term for name, term in terms.items()]
    return {"loss": torch.stack(weighted).sum(), **terms}


def caption_nll(logits: Tensor, tokens: Tensor, pad_id: int) -> Tensor:
    """Return the negative log-likelihood of each caption, summed over its tokens, as ``[b]``.

    ``logits [b, L, V]`` at position i predict ``tokens [b, L]`` at position i. Padding is ignored.
    """
    nll = F.cross_entropy(exact(logits).flatten(0, 1), tokens.flatten(), ignore_index=pad_id, reduction="none")
    return nll.view(tokens.shape).sum(1)


def check_scales(teacher_dims: Sequence[int], teacher_scales: Sequence[float | None]) -> None:
    """Raise ``ProfileError`` unless each teacher has a positive logit scale or None."""
    if len(teacher_scales) != len(teacher_dims) or not teacher_dims:
        raise ProfileError(
            f"logit_scale: {len(teacher_scales)} scales for {len(teacher_dims)} teachers; set one for each teacher, "
            "in the order of the dataset"
        )
    for number, scale in enumerate(teacher_scales):
        if scale is not None and not 0 < scale < float("inf"):
            raise ProfileError(f"logit_scale: {scale} of teacher {number} is not a positive number")


def _side(features: Features) -> Side:
    return features if isinstance(features, Side) else Side(features, features)


def exact(x: Tensor) -> Tensor:
    """Convert ``x`` to fp32 unless it is fp64."""
    return x if x.dtype == torch.float64 else x.float()


def _logits(rows: Tensor, columns: Tensor, scale: Tensor | float) -> Tensor:
    # bf16 has a resolution of 0.5 at a logit of 100
    with torch.autocast(rows.device.type, enabled=False):
        return scale * exact(rows) @ exact(columns).T


def _mean_kl(targets: Tensor, predictions: Tensor) -> Tensor:
    """Average KL(targets || predictions) over rows. Both are log-probabilities."""
    return F.kl_div(predictions, targets, reduction="batchmean", log_target=True)

"""Generate captions with a CoCa model.

Random numbers depend only on the seed, the sample's key, the caption index, the attempt and the position. Captions
therefore do not depend on other samples, their order, the number of workers or other captions. Rounding is an exception:
matrix products of other shapes may differ in their last bits, which changes about one token in 100,000 in float32.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from open_clip.coca_model import CoCa
from open_clip.tokenizer import SimpleTokenizer
from torch.nn import functional as F

from mobileclip2.captioners.decoder import CachedDecoder
from mobileclip2.config.captioner import GenerationSettings
from mobileclip2.errors import UserError

_REPACK_SHARE = 0.75
"""Share of unfinished sequences below which finished ones are dropped. Copying the caches costs one or two steps."""

_CANDIDATES = (128, 4096, 1 << 30)
"""Numbers of most probable tokens in which the nucleus is searched, in this order. The first almost always suffices, and
sorting the full vocabulary costs more than a step of the decoder."""


@dataclass(frozen=True)
class Draw:
    """A caption to generate: the image index in the batch, the sample key, the caption index and the attempt."""

    image: int
    key: str
    caption: int
    attempt: int = 0

    def uniforms(self, seed: int, count: int) -> np.ndarray:
        """Return uniform random numbers in [0, 1), float32 ``[count]``, one per position."""
        source = hashlib.shake_128(f"{seed}/{self.caption}/{self.attempt}/{self.key}".encode())
        words = np.frombuffer(source.digest(4 * count), dtype="<u4")
        return (words >> 8).astype(np.float32) * np.float32(2**-24)


@torch.inference_mode()
def image_tokens(model: CoCa, images: torch.Tensor) -> torch.Tensor:
    """Compute the image tokens that the decoder attends to, ``[b, T, width]``."""
    tokens: torch.Tensor = model.visual(images)[1]
    return tokens


@torch.inference_mode()
def generate_tokens(
    model: CoCa,
    tokenizer: SimpleTokenizer,
    images: torch.Tensor,
    draws: Sequence[Draw],
    settings: GenerationSettings,
) -> list[list[int]]:
    """Generate the tokens of ``draws``, without start and end. ``images`` is the result of :func:`image_tokens`.

    Sampling equals open_clip's ``CoCa.generate``, except for the random numbers. ``model`` must be in evaluation mode.
    """
    start, end, pad = tokenizer.sot_token_id, tokenizer.eot_token_id, model.pad_id
    length = settings.max_tokens
    if length > model.context_length:
        raise UserError(f"captioner: max_tokens {length} exceeds the model's context of {model.context_length} tokens")
    uniforms = torch.from_numpy(np.stack([d.uniforms(settings.seed, length) for d in draws])).to(images.device)
    decoder = CachedDecoder(model, images, [d.image for d in draws], length)
    out = torch.full((len(draws), length), end, dtype=torch.long, device=images.device)
    rows = torch.arange(len(draws), device=images.device)
    alive = torch.ones_like(rows, dtype=torch.bool)
    token = torch.full_like(rows, start)
    # the last position is always the end token
    for position in range(1, length - 1):
        logits = decoder.step(token).float()
        if position < settings.min_tokens - 1:
            logits[:, end] = -torch.inf
        token = sample(logits, uniforms[rows, position], settings.top_p, settings.temperature)
        alive &= (token != end) & (token != pad)
        out[rows, position] = torch.where(alive, token, end)
        living = int(alive.sum())
        if living == 0:
            break
        if living <= _REPACK_SHARE * len(rows):
            unfinished = alive.nonzero()[:, 0]
            decoder.keep(unfinished)
            rows, token, alive = rows[unfinished], token[unfinished], alive[unfinished]
    return [line[1 : line.index(end, 1)] for line in out.tolist()]


def sample(logits: torch.Tensor, uniform: torch.Tensor, top_p: float, temperature: float) -> torch.Tensor:
    """Sample a token for each row of ``logits [n, V]`` with the random numbers ``uniform [n]``.

    Nucleus sampling (Holtzman et al., arXiv 1904.09751) by inversion of the distribution function. The nucleus is the
    smallest set of most probable tokens whose probability is at least ``top_p``.
    """
    if temperature == 0:
        return logits.argmax(-1)
    tokens = torch.empty_like(uniform, dtype=torch.long)
    total = logits.logsumexp(-1, keepdim=True)
    pending = torch.arange(len(logits), device=logits.device)
    for candidates in sorted({min(count, logits.shape[-1]) for count in _CANDIDATES}):
        scores, indices = logits[pending].topk(candidates)
        cumulative = (scores - total[pending]).exp().cumsum(-1)
        before = F.pad(cumulative[:, :-1], (1, 0))
        weights = ((scores - scores[:, :1]) / temperature).exp() * (before < top_p)
        distribution = weights.cumsum(-1)
        target = uniform[pending, None] * distribution[:, -1:]
        position = (distribution <= target).sum(-1, keepdim=True).clamp(max=candidates - 1)
        tokens[pending] = indices.gather(-1, position)[:, 0]
        pending = pending[cumulative[:, -1] < top_p]
        if not len(pending):
            break
    return tokens

"""Generate captions with a CoCa.

An image is encoded once for all its captions, and both text transformers cache keys and values.

A draw depends on the seed, the sample's key, the caption's index, the attempt and the position, and on
nothing else, so a sample's captions do not depend on its neighbors, their order, the worker count or which
other captions are asked for. What remains is rounding: matrix products of other shapes may differ in their
last bits, and a draw that falls that close to the border between two tokens may then go the other way
(float32: about one token in 100,000).
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

_WORTH_REPACKING = 0.75
"""Finished sequences leave the batch once no more than this share of it is alive: moving the caches costs a
step or two."""

_CANDIDATES = (128, 4096, 1 << 30)
"""The most probable tokens that are sorted to find a nucleus: a trained captioner's is among the first, almost always;
sorting the whole vocabulary costs more than a step of the decoder."""


@dataclass(frozen=True)
class Draw:
    """One caption to be written: of which image of the batch, under which key and index, at which attempt."""

    image: int
    key: str
    caption: int
    attempt: int = 0

    def uniforms(self, seed: int, count: int) -> np.ndarray:
        """float32 ``[count]`` in [0, 1), one a position."""
        source = hashlib.shake_128(f"{seed}/{self.caption}/{self.attempt}/{self.key}".encode())
        words = np.frombuffer(source.digest(4 * count), dtype="<u4")
        return (words >> 8).astype(np.float32) * np.float32(2**-24)


def generate(
    model: CoCa,
    tokenizer: SimpleTokenizer,
    images: torch.Tensor,
    keys: Sequence[str],
    captions: Sequence[int],
    settings: GenerationSettings,
) -> list[list[list[int]]]:
    """Caption ``captions[j]`` of image ``i`` at ``[i][j]``: its tokens between start and end.

    ``images`` is ``[len(keys), 3, H, W]``, or cached trunk features; ``model`` is in evaluation mode.
    Sampling is as in open_clip's ``CoCa.generate``, except for the source of randomness. Raises ``UserError``
    if ``max_tokens`` exceeds the model's context.
    """
    draws = [Draw(i, key, caption) for i, key in enumerate(keys) for caption in captions]
    written = write(model, tokenizer, image_tokens(model, images), draws, settings)
    return [written[i : i + len(captions)] for i in range(0, len(written), len(captions))]


@torch.inference_mode()
def image_tokens(model: CoCa, images: torch.Tensor) -> torch.Tensor:
    """Compute the image tokens that the decoder attends to, ``[b, T, width]``."""
    tokens: torch.Tensor = model.visual(images)[1]
    return tokens


@torch.inference_mode()
def write(
    model: CoCa,
    tokenizer: SimpleTokenizer,
    images: torch.Tensor,
    draws: Sequence[Draw],
    settings: GenerationSettings,
) -> list[list[int]]:
    """Generate the tokens of each of ``draws`` over ``images``, the ``image_tokens`` of their batch."""
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
    # the last position is the end token whatever the model would say
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
        if living <= _WORTH_REPACKING * len(rows):
            kept = alive.nonzero()[:, 0]
            decoder.keep(kept)
            rows, token, alive = rows[kept], token[kept], alive[kept]
    return [line[1 : line.index(end, 1)] for line in out.tolist()]


def sample(logits: torch.Tensor, uniform: torch.Tensor, top_p: float, temperature: float) -> torch.Tensor:
    """One token a row of ``logits [n, V]``: the nucleus' distribution function inverted at ``uniform [n]``.

    The nucleus (Holtzman et al., arXiv 1904.09751) is the shortest run of the most probable tokens that holds
    ``top_p``.
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
        place = (distribution <= target).sum(-1, keepdim=True).clamp(max=candidates - 1)
        tokens[pending] = indices.gather(-1, place)[:, 0]
        pending = pending[cumulative[:, -1] < top_p]
        if not len(pending):
            break
    return tokens

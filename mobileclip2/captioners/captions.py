"""Generate the synthetic captions of a batch of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch

from mobileclip2.captioners.coca import coca_of
from mobileclip2.captioners.generate import Draw, generate_tokens, image_tokens
from mobileclip2.captioners.sentences import degenerate, first_sentence
from mobileclip2.captioners.vocabulary import text_of
from mobileclip2.config.captioner import GenerationSettings
from mobileclip2.models.image_text import ImageText


class FailedCaption(NamedTuple):
    """A caption that was degenerate in all attempts. ``reason`` is the reason of the last attempt."""

    key: str
    caption: int
    reason: str


def caption_images(
    captioner: ImageText,
    images: torch.Tensor,
    keys: Sequence[str],
    captions: Sequence[int],
    settings: GenerationSettings,
) -> tuple[list[list[str]], list[FailedCaption]]:
    """Generate the caption indices ``captions`` for ``images [len(keys), 3, H, W]`` or cached trunk features.

    Each image is encoded once. Degenerate captions are generated again up to ``settings.retries`` times. Then they are "".
    Return the captions by image and index, and the failed ones.
    """
    model, tokenizer = coca_of(captioner)
    tokens = image_tokens(model, images)
    draws = [Draw(i, key, caption) for i, key in enumerate(keys) for caption in captions]
    texts = [""] * len(draws)
    pending = list(range(len(draws)))
    reasons: dict[int, str] = {}
    for attempt in range(settings.retries + 1):
        attempts = [replace(draws[index], attempt=attempt) for index in pending]
        generated = generate_tokens(model, tokenizer, tokens, attempts, settings)
        reasons = {}
        for index, caption_tokens in zip(pending, generated, strict=True):
            text = first_sentence(text_of(tokenizer, caption_tokens))
            if reason := degenerate(text):
                reasons[index] = reason
            else:
                texts[index] = text
        pending = list(reasons)
        if not pending:
            break
    per_image = [texts[i : i + len(captions)] for i in range(0, len(texts), len(captions))]
    return per_image, [
        FailedCaption(draws[index].key, draws[index].caption, reason) for index, reason in reasons.items()
    ]

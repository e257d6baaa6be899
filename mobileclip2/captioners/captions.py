"""The captions of a batch of images, as they are stored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch

from mobileclip2.captioners.coca import coca_of
from mobileclip2.captioners.generate import Draw, image_tokens, write
from mobileclip2.captioners.sentences import degenerate, first_sentence
from mobileclip2.captioners.vocabulary import text_of
from mobileclip2.config.captioner import GenerationSettings
from mobileclip2.models.image_text import ImageText


@dataclass(frozen=True)
class FailedCaption:
    """A caption that stayed degenerate; ``reason`` is that of ``degenerate`` at the last attempt."""

    key: str
    caption: int
    reason: str


@dataclass(frozen=True)
class WrittenCaptions:
    """``captions[i][j]`` is caption index ``j`` of the request for image ``i``; "" where it failed."""

    captions: list[list[str]]
    retries: int
    failures: list[FailedCaption]


def caption_images(
    captioner: ImageText,
    images: torch.Tensor,
    keys: Sequence[str],
    captions: Sequence[int],
    settings: GenerationSettings,
) -> WrittenCaptions:
    """Caption indices ``captions`` of ``images [len(keys), 3, H, W]`` (or cached trunk features).

    An image is encoded once, for all of its captions and attempts. A degenerate caption is drawn again up to
    ``settings.retries`` times; one that stays degenerate is "" in its place and named among the failures.
    """
    model, tokenizer = coca_of(captioner)
    tokens = image_tokens(model, images)
    draws = [Draw(i, key, caption) for i, key in enumerate(keys) for caption in captions]
    texts = [""] * len(draws)
    waiting = list(range(len(draws)))
    retries, reasons = 0, dict[int, str]()
    for attempt in range(settings.retries + 1):
        retries += len(waiting) if attempt else 0
        tried = [replace(draws[place], attempt=attempt) for place in waiting]
        written = write(model, tokenizer, tokens, tried, settings)
        reasons = {}
        for place, line in zip(waiting, written, strict=True):
            text = first_sentence(text_of(tokenizer, line))
            if reason := degenerate(text):
                reasons[place] = reason
            else:
                texts[place] = text
        waiting = list(reasons)
        if not waiting:
            break
    per_image = [texts[i : i + len(captions)] for i in range(0, len(texts), len(captions))]
    failures = [FailedCaption(draws[p].key, draws[p].caption, reason) for p, reason in reasons.items()]
    return WrittenCaptions(per_image, retries, failures)

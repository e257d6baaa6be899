"""Features of one model, each image content and each text computed once however many sets hold it."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.image import decode
from mobileclip2.errors import ShardError, WeightsError
from mobileclip2.evaluation.feature_cache import Known
from mobileclip2.evaluation.sets import Sample
from mobileclip2.models.image_text import ImageText

DECODERS = min(16, os.cpu_count() or 1)
"""threads that decode and resize while the model works on an earlier batch"""
KEPT_PIXELS = 1 << 24
"""of decoded images that stay in memory: 200 MB"""
AHEAD = 3
"""batches that may wait for the model"""


class Features:
    """L2-normalized fp32 features of ``model``, kept in memory: 4 * ``embed_dim`` bytes an image or text.

    ``batch`` is the number of images or texts that go through the model at once. Images go where the model lies. ``kept`` is a
    folder for the features of this very model, to start from and to :meth:`keep` them in. ``pixels`` are decoded images by their
    content, shared by the evaluations of one model while it trains; it is filled up to :data:`KEPT_PIXELS`.
    """

    def __init__(
        self,
        model: ImageText,
        *,
        batch: int = 64,
        kept: Path | None = None,
        pixels: dict[str, Tensor] | None = None,
    ) -> None:
        self.model = model
        self.batch = batch
        self._pixels = {} if pixels is None else pixels
        self._room = 0 if pixels is None else KEPT_PIXELS // model.preprocess.size**2
        self._images = Known(kept / "images" if kept else None)
        self._texts = Known(kept / "texts" if kept else None)

    def keep(self) -> None:
        """Write the features that were computed here for later evaluations."""
        self._images.keep()
        self._texts.keep()

    def of_images(self, samples: Iterable[Sample], name: str, advance: Callable[[], None] = lambda: None) -> Tensor:
        """``[n, embed_dim]`` in the order of ``samples``; calls ``advance`` after each sample.

        Raises:
            ShardError: samples that cannot be used, counted and named; fewer images would be another test.
            WeightsError: the model gives features that are not finite.
        """
        contents: list[str] = []
        faults: list[str] = []
        waiting: deque[list[tuple[Sample, str, Future[Tensor]]]] = deque([[]])
        asked: set[str] = set()
        with ThreadPoolExecutor(DECODERS, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            for sample in samples:
                content = digest(sample.image)
                contents.append(content)
                advance()
                if sample.fault:
                    faults.append(f"'{sample.key}' ({sample.fault})")
                elif content not in self._images and content not in asked:
                    asked.add(content)
                    waiting[-1].append((sample, content, threads.submit(self._decoded, sample, content)))
                if len(waiting[-1]) == self.batch:
                    waiting.append([])
                if len(waiting) > AHEAD:
                    self._embed(waiting.popleft(), faults)
            for pending in waiting:
                self._embed(pending, faults)
        if faults:
            shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
            raise ShardError(
                f"evaluation set '{name}': {len(faults)} of {len(contents)} test samples cannot be used: {shown}. "
                "A smaller test set gives another number: fetch the set again or repair it"
            )
        return self._images.of(contents)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """``[len(texts), embed_dim]``.

        Raises:
            WeightsError: the model gives features that are not finite.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new), self.batch):
            some = new[start : start + self.batch]
            self._texts.add(some, _finite(self.model.embed_texts(some)))
        return self._texts.of(texts)

    def _decoded(self, sample: Sample, content: str) -> Tensor:
        pixels = self._pixels.get(content)
        if pixels is None:
            pixels = self.model.preprocess.whole(decode(sample.image))
            if len(self._pixels) < self._room:
                self._pixels[content] = pixels
        return pixels

    def _embed(self, pending: list[tuple[Sample, str, Future[Tensor]]], faults: list[str]) -> None:
        contents, pixels = [], []
        for sample, content, future in pending:
            try:
                pixels.append(future.result())
                contents.append(content)
            except BadSample as fault:
                faults.append(f"'{sample.key}' ({fault})")
        if pixels and not faults:
            device = next(self.model.model.parameters()).device
            self._images.add(contents, _finite(self.model.embed_images(torch.stack(pixels).to(device))))


def digest(content: bytes) -> str:
    """Return the sha256 of ``content`` in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def _finite(features: Tensor) -> Tensor:
    """NaN compares as neither better nor worse, and would rank first."""
    features = features.cpu()
    if not features.isfinite().all():
        raise WeightsError("the model gives features that are not finite: its weights are broken or it diverged")
    return features

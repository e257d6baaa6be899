"""Features of one model. Each distinct image and text is computed once."""

from __future__ import annotations

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from mobileclip2.data.bad_sample import BadSample
from mobileclip2.data.image import decode
from mobileclip2.errors import ShardError, WeightsError
from mobileclip2.evaluation.feature_cache import FeatureCache
from mobileclip2.evaluation.sets import Sample
from mobileclip2.models.image_text import ImageText

DECODERS = min(16, os.cpu_count() or 1)
"""Number of threads that decode and resize images while the model runs on an earlier batch."""
CACHED_PIXELS = 1 << 24
"""Number of pixels of decoded images in memory: 200 MB."""
PREFETCH = 3
"""Number of batches that wait for the model."""


class Features:
    """L2-normalized fp32 features of ``model`` in memory, 4 * ``embed_dim`` bytes per image or text.

    ``batch`` is the number of images or texts in a forward pass. ``feature_cache`` is a folder with features of the same
    weights: they are read from it, and :meth:`save` writes new ones to it. ``pixels`` caches decoded images by their hash
    for all evaluations of a training, up to :data:`CACHED_PIXELS`. ``advance`` is called after each image.
    """

    def __init__(
        self,
        model: ImageText,
        *,
        batch: int = 64,
        feature_cache: Path | None = None,
        pixels: dict[str, Tensor] | None = None,
        advance: Callable[[], None] = lambda: None,
    ) -> None:
        self.model = model
        self.batch = batch
        self._advance = advance
        self._pixels = {} if pixels is None else pixels
        self._max_images = 0 if pixels is None else CACHED_PIXELS // model.preprocess.size**2
        self._images = FeatureCache(feature_cache / "images" if feature_cache else None)
        self._texts = FeatureCache(feature_cache / "texts" if feature_cache else None)

    def save(self) -> None:
        """Write new features to the feature cache."""
        self._images.save()
        self._texts.save()

    def of_images(self, samples: Iterable[Sample], name: str) -> Tensor:
        """Embed the images of ``samples`` as ``[n, embed_dim]``.

        Raises:
            ShardError: samples are not usable. The message names the first five.
            WeightsError: the features are not finite.
        """
        contents: list[str] = []
        faults: list[str] = []
        waiting: deque[list[tuple[Sample, str, Future[Tensor]]]] = deque([[]])
        submitted: set[str] = set()
        with ThreadPoolExecutor(DECODERS, initializer=torch.set_num_threads, initargs=(1,)) as threads:
            for sample in samples:
                content = hashlib.sha256(sample.image).hexdigest()
                contents.append(content)
                self._advance()
                if sample.fault:
                    faults.append(f"'{sample.key}' ({sample.fault})")
                elif content not in self._images and content not in submitted:
                    submitted.add(content)
                    waiting[-1].append((sample, content, threads.submit(self._decode, sample, content)))
                if len(waiting[-1]) == self.batch:
                    waiting.append([])
                if len(waiting) > PREFETCH:
                    self._embed(waiting.popleft(), faults)
            for pending in waiting:
                self._embed(pending, faults)
        if faults:
            shown = "; ".join(faults[:5]) + (f"; and {len(faults) - 5} more" if len(faults) > 5 else "")
            raise ShardError(
                f"evaluation set '{name}': {len(faults)} of {len(contents)} test samples are not usable: {shown}. "
                "Results on a smaller test set are not comparable: download the set again or repair it"
            )
        return self._images.get(contents)

    def of_texts(self, texts: Sequence[str]) -> Tensor:
        """Embed texts as ``[len(texts), embed_dim]``.

        Raises:
            WeightsError: the features are not finite.
        """
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        for start in range(0, len(new), self.batch):
            batch = new[start : start + self.batch]
            self._texts.add(batch, _finite(self.model.embed_texts(batch)))
        return self._texts.get(texts)

    def of_classes(self, classnames: Sequence[str], templates: Sequence[str]) -> Tensor:
        """Return the zero-shot classifier (Radford et al. 2021, section 3.1), ``[classes, embed_dim]``.

        The features of a class are averaged over the templates, which contain ``{c}``, and normalized again.
        """
        prompts = [template.format(c=name) for name in classnames for template in templates]
        return F.normalize(self.of_texts(prompts).unflatten(0, (len(classnames), len(templates))).mean(1), dim=-1)

    def _decode(self, sample: Sample, content: str) -> Tensor:
        pixels = self._pixels.get(content)
        if pixels is None:
            pixels = self.model.preprocess.whole(decode(sample.image))
            if len(self._pixels) < self._max_images:
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


def _finite(features: Tensor) -> Tensor:
    """Return the features on the CPU. Raise ``WeightsError`` for NaN, because NaN would rank first."""
    features = features.cpu()
    if not features.isfinite().all():
        raise WeightsError("the features of the model are not finite: the weights are broken or the training diverged")
    return features

"""Tiny real models and evaluation sets."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping

import numpy as np
import open_clip
import torch
from open_clip.model import CLIP
from PIL import Image

from mobileclip2.data.preprocess import Preprocess
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.models.image_text import ImageText

CLASSES = ("dog", "cat", "owl", "bee", "yak", "elk")
RETRIEVAL = {
    "classnames.txt": None,
    "zeroshot_classification_templates.txt": None,
    "dataset_type.txt": "retrieval\n",
}
Members = Mapping[str, bytes]
WriteSet = Callable[..., EvaluationSet]


def build_model(seed: int = 0) -> ImageText:
    """Build a narrow open_clip model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vision = {"image_size": 32, "layers": 1, "width": 32, "patch_size": 16, "head_width": 16}
        text = {"context_length": 12, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
        model = CLIP(16, vision, text).eval()
        for parameter in model.parameters():  # an untrained model has nearly the same features for all inputs
            parameter.data.mul_(2)
    return ImageText(model, open_clip.SimpleTokenizer(context_length=12), Preprocess(32), 16)


def picture(seed: int, form: str = "png") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (40, 36, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return buffer.getvalue()


def labeled(seed: int, target: int) -> Members:
    return {"png": picture(seed), "cls": str(target).encode()}


def captioned(seed: int, *captions: str) -> Members:
    return {"png": picture(seed), "txt": "\n".join(captions).encode()}

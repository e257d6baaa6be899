from __future__ import annotations

import torch

from mobileclip2.evaluation.features import Features
from mobileclip2.evaluation.zeroshot import classifier
from mobileclip2.models.image_text import ImageText


def test_classifier_is_the_normalized_mean_of_normalized_prompts(model: ImageText) -> None:
    names, templates = ["dog", "cat {s}", "bee"], ["{c}", "a photo of a {c}.", "art of the {c}"]
    weights = classifier(Features(model, batch=2), names, templates)
    for row, name in zip(weights, names, strict=True):
        total = torch.zeros(model.embed_dim)
        for template in templates:
            with torch.no_grad():
                raw = model.model.encode_text(model.tokenize([template.replace("{c}", name)]))[0]
            total += raw / raw.norm()
        torch.testing.assert_close(row, total / total.norm(), atol=1e-6, rtol=0)

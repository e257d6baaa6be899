"""Zero-shot classification: the class whose prompts lie closest to the image (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from mobileclip2.evaluation.features import Features


def classifier(features: Features, classnames: Sequence[str], templates: Sequence[str]) -> Tensor:
    """``[classes, embed_dim]``: mean over the templates of normalized text features, normalized again."""
    prompts = [template.format(c=name) for name in classnames for template in templates]
    prompted = features.of_texts(prompts).unflatten(0, (len(classnames), len(templates)))
    return F.normalize(prompted.mean(1), dim=-1)

"""Zero-shot classification with prompts (Radford et al. 2021, section 3.1)."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from mobileclip2.evaluation.features import Features


def classifier(features: Features, classnames: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return ``[classes, embed_dim]``: normalized text features, averaged over templates and normalized again."""
    prompts = [template.format(c=name) for name in classnames for template in templates]
    text_features = features.of_texts(prompts).unflatten(0, (len(classnames), len(templates)))
    return F.normalize(text_features.mean(1), dim=-1)

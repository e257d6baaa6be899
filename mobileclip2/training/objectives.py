"""Training objectives: features of a batch, and the loss of the features.

Features and loss are separate because ``gradients`` computes the features per micro-batch and a contrastive loss of the
full batch. The features of a sample do not depend on other samples, except through batch norm, whose statistics are those
of a micro-batch of a process.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip2.models.unpadded import encode_text
from mobileclip2.training.losses import Side, caption_nll, check_scales, clip_loss, exact, reinforced_loss

Batch = dict[str, Tensor]
Gather = Callable[[Tensor], Tensor]


class Objective(Protocol):
    """A training objective."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the keys that a batch must have."""

    def features(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute the features of ``batch`` for the loss, ``[b, ...]`` each."""

    def loss(self, features: dict[str, Tensor], batch: Batch, logit_scale: Tensor, gather: Gather) -> dict[str, Tensor]:
        """Return the scalar ``loss`` and its terms by name.

        ``features`` and ``batch`` (without images) are the rows of this process. ``gather`` returns the rows of all
        processes. The mean of the loss over processes is the loss of the global batch. ``logit_scale`` is
        1 / temperature.
        """


class Contrastive:
    """The CLIP loss on ``image`` and ``text``, the inputs of ``encode_image`` and ``encode_text``."""

    needs = ("image", "text")

    def features(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute L2-normalized image and text features, ``[b, embed_dim]``."""
        return {"image": _image_features(model, batch["image"]), "text": _text_features(model, batch["text"])}

    def loss(self, features: dict[str, Tensor], batch: Batch, logit_scale: Tensor, gather: Gather) -> dict[str, Tensor]:
        """Return the CLIP loss as ``loss``."""
        image, text = (Side(features[name], gather(features[name])) for name in ("image", "text"))
        return {"loss": clip_loss(image, text, logit_scale)}


@dataclass(frozen=True)
class Reinforced:
    """MobileCLIP2's training loss on a reinforced dataset. ``distill`` is lambda in the paper.

    ``teacher_dims`` and ``teacher_scales`` follow the order of the teachers in the dataset. A teacher with the scale None
    is left out.

    Raises:
        ProfileError: the number of logit scales is wrong, or a scale is not positive.
    """

    teacher_dims: Sequence[int]
    teacher_scales: Sequence[float | None]
    distill: float = 1.0
    captions: Literal["both", "real", "synthetic"] = "both"

    def __post_init__(self) -> None:
        check_scales(self.teacher_dims, self.teacher_scales)

    @property
    def texts(self) -> dict[str, str]:
        """Map the names of caption batches to keys of a batch."""
        keys = {"real": "text", "synthetic": "synthetic_text"}
        return {name: key for name, key in keys.items() if self.captions in (name, "both")}

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the keys that a batch must have, including those of the teachers if the student distills."""
        keys = ("image", *self.texts.values())
        return (*keys, *(f"teacher_{key}" for key in keys)) if self.distill else keys

    def features(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute L2-normalized image and text features, ``[b, embed_dim]``, with one forward pass for all texts."""
        keys = list(self.texts.values())
        texts = _text_features(model, torch.cat([batch[key] for key in keys])).chunk(len(keys))
        return {"image": _image_features(model, batch["image"]), **dict(zip(keys, texts, strict=True))}

    def loss(self, features: dict[str, Tensor], batch: Batch, logit_scale: Tensor, gather: Gather) -> dict[str, Tensor]:
        """Return the loss of the paper, section 3, as ``loss``, and its terms."""

        def side(source: dict[str, Tensor], key: str) -> Side:
            return Side(source[key], gather(source[key]))

        return reinforced_loss(
            side(features, "image"),
            {name: side(features, key) for name, key in self.texts.items()},
            logit_scale,
            side(batch, "teacher_image") if self.distill else None,
            {name: side(batch, f"teacher_{key}") for name, key in self.texts.items()} if self.distill else {},
            self.teacher_dims,
            self.teacher_scales,
            self.distill,
        )


class CoCaObjective:
    """The loss of CoCa (Yu et al. 2022), with the default weights of ``open_clip``.

    The model is ``open_clip``'s CoCa. ``text`` is padded with its ``pad_id``. The loss shifts the labels itself, because
    the model of open_clip 3 returns shifted logits and labels, and that of open_clip 4 the logits of every position.
    """

    needs = ("image", "text")

    def features(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute features ``[b, embed_dim]``, and the negative log-likelihood and token count of each caption, ``[b]``."""
        output = model(batch["image"], batch["text"])
        pad_id: Any = model.pad_id
        labels = batch["text"][:, 1:]  # the logits at a position predict the next token
        logits = output["logits"][:, : labels.shape[1]]
        return {
            "image": _normalized(output["image_features"]),
            "text": _normalized(output["text_features"]),
            "nll": caption_nll(logits, labels, pad_id),
            "tokens": (labels != pad_id).sum(1),
        }

    def loss(self, features: dict[str, Tensor], batch: Batch, logit_scale: Tensor, gather: Gather) -> dict[str, Tensor]:
        """Return the weighted sum as ``loss``, and both terms."""
        image, text = (Side(features[name], gather(features[name])) for name in ("image", "text"))
        contrastive = clip_loss(image, text, logit_scale)
        tokens = gather(features["tokens"])
        # every token has the same weight in all processes and micro-batches
        processes = len(tokens) / len(features["tokens"])
        caption = features["nll"].sum() * processes / tokens.sum()
        return {"loss": contrastive + 2 * caption, "clip": contrastive, "caption": caption}


def _image_features(model: Any, images: Tensor) -> Tensor:
    return _normalized(model.encode_image(images))


def _text_features(model: Any, texts: Tensor) -> Tensor:
    return _normalized(encode_text(model, texts))


def _normalized(features: Tensor) -> Tensor:
    return F.normalize(exact(features), dim=-1)

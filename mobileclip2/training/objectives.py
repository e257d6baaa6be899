"""What is minimized: how a model's features come from a batch, and what their loss is.

The two halves are kept apart so that a batch can be larger than memory: features of one sample depend on that
sample alone and can be computed a few at a time, while a contrastive loss needs those of the whole batch at
once (``gradients``). Batch norm is the exception: its statistics are those of the samples that go through the
model together, one micro-batch of one process.
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
    """What training minimizes."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the keys that a batch must have."""

    def features(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute what the loss sees of each sample of ``batch``. Every tensor is ``[b, ...]``."""

    def loss(self, features: dict[str, Tensor], batch: Batch, logit_scale: Tensor, gather: Gather) -> dict[str, Tensor]:
        """Return the scalar to minimize under ``loss``, and the parts it is made of.

        ``features`` and ``batch`` (without its image) are this process's rows; ``gather`` brings the rows of
        all processes. The mean over processes of the loss is that of the joined batch. ``logit_scale`` is 1 /
        temperature.
        """


class Contrastive:
    """CLIP on ``image`` and ``text``: anything that the model's ``encode_image`` and ``encode_text`` take."""

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the keys that a batch must have."""
        return "image", "text"

    def features(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute L2-normalized image and text features, ``[b, embed_dim]``."""
        return {"image": _image(model, batch["image"]), "text": _text(model, batch["text"])}

    def loss(self, features: dict[str, Tensor], batch: Batch, logit_scale: Tensor, gather: Gather) -> dict[str, Tensor]:
        """Return the CLIP loss under ``loss``."""
        image, text = (Side(features[name], gather(features[name])) for name in ("image", "text"))
        return {"loss": clip_loss(image, text, logit_scale)}


@dataclass(frozen=True)
class Reinforced:
    """MobileCLIP2's training loss on a reinforced dataset, ``distill`` = lambda.

    ``teacher_dims`` and ``teacher_scales`` go by the order of the dataset's teachers; one whose scale is None is not
    imitated. Several captioners are
    no matter of the loss: they are more captions for the data to draw ``synthetic_text`` from.

    Raises:
        ProfileError: not one positive logit scale for each teacher.
    """

    teacher_dims: Sequence[int]
    teacher_scales: Sequence[float | None]
    distill: float = 1.0
    captions: Literal["both", "real", "synthetic"] = "both"

    def __post_init__(self) -> None:
        check_scales(self.teacher_dims, self.teacher_scales)

    @property
    def texts(self) -> dict[str, str]:
        """Caption batches by name, with their key in a batch."""
        keys = {"real": "text", "synthetic": "synthetic_text"}
        return {name: key for name, key in keys.items() if self.captions in (name, "both")}

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the keys that a batch must have, those of the teachers among them."""
        keys = ("image", *self.texts.values())
        return (*keys, *(f"teacher_{key}" for key in keys))

    def features(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute L2-normalized image and text features, ``[b, embed_dim]``. All texts pass the tower together."""
        keys = list(self.texts.values())
        texts = _text(model, torch.cat([batch[key] for key in keys])).chunk(len(keys))
        return {"image": _image(model, batch["image"]), **dict(zip(keys, texts, strict=True))}

    def loss(self, features: dict[str, Tensor], batch: Batch, logit_scale: Tensor, gather: Gather) -> dict[str, Tensor]:
        """Return the loss of section 3 of the paper under ``loss``, and its parts."""

        def side(source: dict[str, Tensor], key: str) -> Side:
            return Side(source[key], gather(source[key]))

        return reinforced_loss(
            side(features, "image"),
            {name: side(features, key) for name, key in self.texts.items()},
            logit_scale,
            side(batch, "teacher_image"),
            {name: side(batch, f"teacher_{key}") for name, key in self.texts.items()},
            self.teacher_dims,
            self.teacher_scales,
            self.distill,
        )


@dataclass(frozen=True)
class CoCaObjective:
    """The loss of CoCa (Yu et al. 2022): contrastive x 1 + captioning x 2, the defaults of ``open_clip``.

    The model is ``open_clip``'s CoCa; ``text`` is padded with its ``pad_id``.
    """

    contrastive_weight: float = 1.0
    caption_weight: float = 2.0

    @property
    def needs(self) -> tuple[str, ...]:
        """Return the keys that a batch must have."""
        return "image", "text"

    def features(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        """Compute features ``[b, embed_dim]``, and each caption's negative log-likelihood and tokens ``[b]``."""
        output = model(batch["image"], batch["text"])
        pad_id: Any = model.pad_id
        return {
            "image": _normalized(output["image_features"]),
            "text": _normalized(output["text_features"]),
            "nll": caption_nll(output["logits"], output["labels"], pad_id),
            "tokens": (output["labels"] != pad_id).sum(1),
        }

    def loss(self, features: dict[str, Tensor], batch: Batch, logit_scale: Tensor, gather: Gather) -> dict[str, Tensor]:
        """Return the weighted sum under ``loss``, and both parts."""
        image, text = (Side(features[name], gather(features[name])) for name in ("image", "text"))
        contrastive = clip_loss(image, text, logit_scale)
        tokens = gather(features["tokens"])
        # a token weighs the same whichever process or micro-batch it falls into
        processes = len(tokens) / len(features["tokens"])
        caption = features["nll"].sum() * processes / tokens.sum()
        total = self.contrastive_weight * contrastive + self.caption_weight * caption
        return {"loss": total, "clip": contrastive, "caption": caption}


def _image(model: Any, images: Tensor) -> Tensor:
    return _normalized(model.encode_image(images))


def _text(model: Any, texts: Tensor) -> Tensor:
    return _normalized(encode_text(model, texts))


def _normalized(features: Tensor) -> Tensor:
    return F.normalize(exact(features), dim=-1)

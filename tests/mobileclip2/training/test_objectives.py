"""Test which tensors of a batch an objective compares, on a CPU and without training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import pytest
import torch
from open_clip.loss import CoCaLoss
from torch import Tensor, nn
from torch.nn import functional as F

from mobileclip2.training.losses import Side, clip_loss, reinforced_loss
from mobileclip2.training.objectives import CoCaObjective, Contrastive, Objective, Reinforced
from tests.mobileclip2.training.tiny_training import DIMS, SCALES, tiny_batch, tiny_clip, tiny_coca

SCALE = torch.tensor(14.3)


def alone(tensor: Tensor) -> Tensor:
    return tensor


def gather_from(*batches: dict[str, Tensor]) -> Callable[[Tensor], Tensor]:
    """Simulate other processes: the returned function appends their rows to those of the first dictionary."""
    first, *others = batches

    def gather(tensor: Tensor) -> Tensor:
        (name,) = [name for name, rows in first.items() if rows is tensor]
        return torch.cat([tensor, *(other[name] for other in others)])

    return gather


def halves(tensors: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    one, two = ({name: rows.chunk(2)[half] for name, rows in tensors.items()} for half in (0, 1))
    return one, two


def test_reinforced_compares_each_tensor_with_its_own_teachers() -> None:
    model, batch = tiny_clip(), tiny_batch(6)
    objective = Reinforced(DIMS, SCALES, distill=0.75)
    features = objective.features(model, batch)
    expected = reinforced_loss(
        F.normalize(model.encode_image(batch["image"]), dim=-1),
        {
            "real": F.normalize(model.encode_text(batch["text"]), dim=-1),
            "synthetic": F.normalize(model.encode_text(batch["synthetic_text"]), dim=-1),
        },
        SCALE,
        batch["teacher_image"],
        {"real": batch["teacher_text"], "synthetic": batch["teacher_synthetic_text"]},
        DIMS,
        SCALES,
        0.75,
    )
    torch.testing.assert_close(objective.loss(features, batch, SCALE, alone), expected)


@pytest.mark.parametrize(
    ("captions", "needs", "parts"),
    [
        ("real", ("image", "text", "teacher_image", "teacher_text"), {"distill/real"}),
        (
            "synthetic",
            ("image", "synthetic_text", "teacher_image", "teacher_synthetic_text"),
            {"distill/synthetic"},
        ),
    ],
)
def test_reinforced_uses_only_the_captions_it_names(
    captions: Literal["real", "synthetic"], needs: tuple[str, ...], parts: set[str]
) -> None:
    objective = Reinforced(DIMS, SCALES, captions=captions)
    assert objective.needs == needs
    batch = {key: tensor for key, tensor in tiny_batch(4).items() if key in needs}
    found = objective.loss(objective.features(tiny_clip(), batch), batch, SCALE, alone)
    assert set(found) == {"loss", *parts}


def test_training_without_distillation_needs_no_teacher_embeddings() -> None:
    objective = Reinforced(DIMS, SCALES, distill=0)
    assert objective.needs == ("image", "text", "synthetic_text")
    batch = {key: tensor for key, tensor in tiny_batch(4).items() if key in objective.needs}
    found = objective.loss(objective.features(tiny_clip(), batch), batch, SCALE, alone)
    assert set(found) == {"loss", "clip/real", "clip/synthetic"}


def test_coca_minimizes_the_loss_of_open_clip() -> None:
    model, batch = tiny_coca().eval(), tiny_batch(6)
    objective = CoCaObjective()
    parts = objective.loss(objective.features(model, batch), batch, SCALE, alone)
    output = model(batch["image"], batch["text"])
    contrastive, caption = CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0, pad_id=model.pad_id)(
        *(F.normalize(output[name], dim=-1) for name in ("image_features", "text_features")),
        output["logits"],
        output["labels"],
        SCALE,
    )
    torch.testing.assert_close(parts["clip"], contrastive)
    torch.testing.assert_close(2 * parts["caption"], caption)
    torch.testing.assert_close(parts["loss"], contrastive + caption)


class OpenClip4(nn.Module):
    """Stand-in for the CoCa of open_clip 4, which returns logits of every position and no labels."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model, self.pad_id = model, model.pad_id

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        latent, tokens = self.model.visual(image)
        text_latent, text_tokens = self.model.text(text)
        return {
            "image_features": F.normalize(latent, dim=-1),
            "text_features": F.normalize(text_latent, dim=-1),
            "logits": self.model.text_decoder(tokens, text_tokens),
            "logit_scale": self.model.logit_scale.exp(),
        }


class OpenClip3(OpenClip4):
    """Stand-in for the CoCa of open_clip 3, which returns logits of every position but the last, with their labels."""

    def forward(self, image: Tensor, text: Tensor) -> dict[str, Tensor]:
        output = super().forward(image, text)
        return {**output, "logits": output["logits"][:, :-1], "labels": text[:, 1:]}


def test_coca_has_the_same_loss_in_open_clip_3_and_4() -> None:
    model, batch = tiny_coca().eval(), tiny_batch(6)
    objective = CoCaObjective()
    losses = []
    for each in (model, OpenClip3(model), OpenClip4(model)):
        model.zero_grad()
        parts = objective.loss(objective.features(each, batch), batch, SCALE, alone)
        parts["loss"].backward()
        gradients = {
            name: parameter.grad.clone() for name, parameter in model.named_parameters() if name != "logit_scale"
        }
        losses.append((parts, gradients))
    assert "labels" not in OpenClip4(model)(batch["image"], batch["text"])
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0])


@pytest.mark.parametrize("objective", [Contrastive(), Reinforced(DIMS, SCALES, distill=0.75), CoCaObjective()])
def test_the_mean_over_processes_is_the_loss_of_the_joined_batch(objective: Objective) -> None:
    model, batch = (tiny_coca() if isinstance(objective, CoCaObjective) else tiny_clip()).eval(), tiny_batch(8)
    features = objective.features(model, batch)
    joined = objective.loss(features, batch, SCALE, alone)
    shares = []
    for order in ((0, 1), (1, 0)):
        own, other = ({**halves(features)[at], **_renamed(halves(batch)[at])} for at in order)
        share = {name: own[name] for name in features}
        rest = {name: own[f"batch {name}"] for name in batch}
        shares.append(objective.loss(share, rest, SCALE, gather_from(own, other)))
    # a loss does not depend on the order of the gathered rows, so each process may put its own rows first
    mean = {name: torch.stack([share[name] for share in shares]).mean() for name in joined}
    torch.testing.assert_close(mean, joined)


def _renamed(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"batch {name}": tensor for name, tensor in batch.items()}


def test_contrastive_is_the_clip_loss_of_normalized_features() -> None:
    model, batch = tiny_clip(), tiny_batch(6)
    features = Contrastive().features(model, batch)
    for rows in features.values():
        torch.testing.assert_close(rows.norm(dim=-1), torch.ones(6))
    found = Contrastive().loss(features, batch, SCALE, alone)["loss"]
    expected = clip_loss(Side(features["image"], features["image"]), features["text"], SCALE)
    torch.testing.assert_close(found, expected)

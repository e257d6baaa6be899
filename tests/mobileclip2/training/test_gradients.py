from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mobileclip2.training import objectives
from mobileclip2.training.distributed import World
from mobileclip2.training.gradients import Forward, backward, random_seed
from mobileclip2.training.objectives import Batch, Contrastive, Objective
from tests.mobileclip2.training.tiny_training import TRAININGS, tiny_batch, tiny_conv_clip, tiny_training

ALONE = World(0, 1, torch.device("cpu"))


def gradients(
    model: nn.Module, objective: Objective, batch: Batch, accumulate: int, *, bf16: bool = False
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    model.zero_grad(set_to_none=True)
    forward = Forward(model, objective, bf16=bf16)
    parts = backward(forward, objective, batch, ALONE, accumulate=accumulate, seed=lambda micro: 7 + micro)
    return parts, {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def in_double(batch: Batch) -> Batch:
    return {key: tensor.double() if tensor.is_floating_point() else tensor for key, tensor in batch.items()}


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize("accumulate", [2, 4])
def test_accumulation_gives_the_gradient_of_the_whole_batch(name: str, accumulate: int) -> None:
    model, objective = tiny_training(name)
    model, batch = model.double(), in_double(tiny_batch(8))
    whole_parts, whole = gradients(model, objective, batch, 1)
    parts, accumulated = gradients(model, objective, batch, accumulate)
    assert set(accumulated) == set(whole) == {n for n, _ in model.named_parameters()}
    torch.testing.assert_close(parts, whole_parts, rtol=0, atol=1e-10)
    torch.testing.assert_close(accumulated, whole, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", TRAININGS)
@pytest.mark.parametrize(("bf16", "share"), [(False, 1e-5), (True, 0.05)])
def test_accumulation_equals_the_whole_batch_up_to_rounding(name: str, bf16: bool, share: float) -> None:
    model, objective = tiny_training(name)
    whole = gradients(model, objective, tiny_batch(8), 1, bf16=bf16)[1]
    accumulated = gradients(model, objective, tiny_batch(8), 4, bf16=bf16)[1]
    assert set(accumulated) == set(whole)
    difference = torch.cat([(accumulated[key] - whole[key]).flatten() for key in whole])
    assert difference.norm() <= share * torch.cat([gradient.flatten() for gradient in whole.values()]).norm()


@pytest.mark.parametrize(("bf16", "dtype"), [(False, torch.float32), (True, torch.bfloat16)])
def test_bf16_is_used_only_inside_the_model(bf16: bool, dtype: torch.dtype) -> None:
    model = tiny_conv_clip()
    dtypes: set[torch.dtype] = set()
    for layer in (model.visual[0], model.visual[-1]):
        layer.register_forward_hook(lambda _module, _inputs, output: dtypes.add(output.dtype))
    features, scale = Forward(model, Contrastive(), bf16=bf16)(tiny_batch(4))
    assert dtypes == {dtype}
    assert {tensor.dtype for tensor in (*features.values(), scale)} == {torch.float32}


def test_prepared_images_reach_the_model() -> None:
    model, batch = tiny_conv_clip().eval(), tiny_batch(4)
    halved = Forward(model, Contrastive(), prepare=lambda images: images / 2)(batch)[0]
    expected = Contrastive().features(model, {**batch, "image": batch["image"] / 2})
    torch.testing.assert_close(halved, expected, rtol=0, atol=0)


def test_dropping_padding_does_not_change_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    model, objective = tiny_training("reinforced")
    model, batch = model.double(), in_double(tiny_batch(8))
    lengths: list[int] = []
    hook = model.transformer.register_forward_hook(lambda _module, inputs, _output: lengths.append(inputs[0].shape[1]))
    parts, short = gradients(model, objective, batch, 1)
    monkeypatch.setattr(objectives, "encode_text", lambda model, tokens: model.encode_text(tokens))
    whole_parts, whole = gradients(model, objective, batch, 1)
    hook.remove()
    assert lengths[0] < lengths[1] == batch["text"].shape[1]
    torch.testing.assert_close(parts, whole_parts, rtol=0, atol=1e-12)
    torch.testing.assert_close(short, whole, rtol=0, atol=1e-12)


def test_frozen_towers_get_no_gradients() -> None:
    model, objective = tiny_training("contrastive")
    model.visual.requires_grad_(False)
    whole = gradients(model, objective, tiny_batch(8), 1)[1]
    accumulated = gradients(model, objective, tiny_batch(8), 2)[1]
    assert not any(name.startswith("visual.") for name in accumulated)
    torch.testing.assert_close(accumulated, whole, rtol=1e-4, atol=1e-6)


class Remembered(Contrastive):
    def __init__(self) -> None:
        self.seen: list[Tensor] = []

    def features(self, model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        features = super().features(model, batch)
        self.seen.append(features["image"].detach())
        return features


def test_both_passes_draw_the_same_dropout() -> None:
    objective = Remembered()
    gradients(tiny_conv_clip().train(), objective, tiny_batch(8), 2)
    ahead, again = objective.seen[:2], objective.seen[2:]
    torch.testing.assert_close(ahead, again, rtol=0, atol=0)
    assert not torch.equal(ahead[0], ahead[1])


def test_micro_batches_draw_different_dropout() -> None:
    objective = Remembered()
    equal = {name: torch.cat([tensor, tensor]) for name, tensor in tiny_batch(4).items()}
    gradients(tiny_conv_clip().train(), objective, equal, 2)
    assert not torch.equal(objective.seen[0], objective.seen[1])


def test_batch_norm_counts_a_sample_once() -> None:
    norm = (model := tiny_conv_clip().train()).visual[1]
    gradients(model, Contrastive(), tiny_batch(8), 2)
    assert norm.num_batches_tracked == 2
    expected = nn.BatchNorm2d(8)
    with torch.no_grad():
        for micro in tiny_batch(8)["image"].chunk(2):
            expected(model.visual[0](micro))
    torch.testing.assert_close(norm.running_mean, expected.running_mean)
    torch.testing.assert_close(norm.running_var, expected.running_var)


def test_seeds_differ_by_step_process_and_micro_batch() -> None:
    places = [(seed, step, rank, micro) for seed in (0, 1) for step in (1, 11) for rank in (0, 1) for micro in (0, 1)]
    assert len({random_seed(*place) for place in places}) == len(places)
    assert random_seed(1, 11) != random_seed(11, 1)

"""Gradients of a global batch, with micro-batches and data-parallel processes."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobileclip2.training.distributed import World
from mobileclip2.training.objectives import Batch, Objective


class Forward(nn.Module):
    """Model and objective in one module that ``DistributedDataParallel`` can wrap.

    ``prepare`` converts the images of a batch to the input of the model.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        *,
        bf16: bool = False,
        prepare: Callable[[Tensor], Tensor] = lambda images: images,
    ) -> None:
        super().__init__()
        self.model, self.objective, self.bf16, self.prepare = model, objective, bf16, prepare

    def forward(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor]:
        """Return the features of a batch, ``[b, ...]`` by name, and the logit scale."""
        batch = {**batch, "image": self.prepare(batch["image"])}
        # autocast caches cast weights, and weights cast under no_grad must not be reused
        with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=self.bf16):
            features = self.objective.features(self.model, batch)
        logit_scale = self.model.logit_scale
        assert isinstance(logit_scale, Tensor)
        return features, logit_scale.exp()


def distribute(forward: Forward, world: World) -> nn.Module:
    """Wrap ``forward`` in ``DistributedDataParallel`` if there are several processes."""
    if world.size == 1:
        return forward
    devices = [world.device] if world.device.type == "cuda" else None
    return DistributedDataParallel(forward, device_ids=devices)


def backward(
    forward: nn.Module,
    objective: Objective,
    batch: Batch,
    world: World,
    *,
    accumulate: int,
    seed: Callable[[int], int],
) -> dict[str, Tensor]:
    """Add the gradient of the global batch's mean loss to ``.grad``, and return the losses of this process by name.

    ``forward`` is a :class:`Forward`, wrapped by :func:`distribute`. ``batch`` is this process's part of the global
    batch. ``seed`` maps a micro-batch to its random seed (dropout, stochastic depth).

    ``accumulate`` > 1 caches gradients of features (Gao et al. 2021, arXiv 2101.06983). A pass without graph computes
    the features of all micro-batches, the loss of the full batch gives the gradients of the features, and a second pass
    per micro-batch propagates them to the parameters. The result is the gradient of the full batch, except that batch
    norm normalizes each micro-batch. Activations of one micro-batch are in memory.
    """
    rest = _to({name: tensor for name, tensor in batch.items() if name != "image"}, world.device)
    micro_batches = [
        dict(zip(batch, tensors, strict=True))
        for tensors in zip(*(tensor.chunk(accumulate) for tensor in batch.values()), strict=True)
    ]

    def run_micro_batch(module: nn.Module, number: int) -> tuple[dict[str, Tensor], Tensor]:
        torch.manual_seed(seed(number))
        result: tuple[dict[str, Tensor], Tensor] = module(_to(micro_batches[number], world.device))
        return result

    if accumulate == 1:
        features, scale = run_micro_batch(forward, 0)
        losses = objective.loss(features, rest, scale, world.gather)
        losses["loss"].backward()
        return {name: loss.detach() for name, loss in losses.items()}

    module = forward.module if isinstance(forward, DistributedDataParallel) else forward
    with torch.no_grad(), _preserve_buffers(module):
        outputs = [run_micro_batch(module, number) for number in range(accumulate)]
    features = {name: _leaf(torch.cat([output[name] for output, _ in outputs])) for name in outputs[0][0]}
    scale = _leaf(outputs[0][1])
    losses = objective.loss(features, rest, scale, world.gather)
    losses["loss"].backward()
    for number in range(accumulate):
        last = number == accumulate - 1
        with nullcontext() if last or not isinstance(forward, DistributedDataParallel) else forward.no_sync():
            recomputed, recomputed_scale = run_micro_batch(forward, number)
            pairs = [
                (recomputed[name], tensor.grad.chunk(accumulate)[number])
                for name, tensor in features.items()
                if tensor.grad is not None and recomputed[name].requires_grad
            ]
            if last and recomputed_scale.requires_grad and scale.grad is not None:
                pairs.append((recomputed_scale, scale.grad))
            tensors, gradients = zip(*pairs, strict=True)
            torch.autograd.backward(tensors, gradients)
    return {name: loss.detach() for name, loss in losses.items()}


def random_seed(*path: int) -> int:
    """Hash run seed, step, rank and micro-batch to a seed."""
    digest = hashlib.sha256(" ".join(map(str, path)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_(tensor.is_floating_point())


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


@contextmanager
def _preserve_buffers(module: nn.Module) -> Iterator[None]:
    """Restore all buffers on exit, so that batch norm statistics count each sample once."""
    before = [buffer.clone() for buffer in module.buffers()]
    yield
    for buffer, value in zip(module.buffers(), before, strict=True):
        buffer.copy_(value)

"""The gradient of a batch, whole or a micro-batch at a time, in one process or several."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from mobileclip2.training.distributed import World
from mobileclip2.training.objectives import Batch, Objective


class Forward(nn.Module):
    """A model under an objective, as one module that ``DistributedDataParallel`` can wrap.

    Everything that the loss needs of the model leaves through ``forward``: the features of the samples and
    the logit scale. ``prepare`` makes of a batch's images what the model takes.
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
        """Return what the loss needs of a batch: features ``[b, ...]`` by name, and the logit scale."""
        batch = {**batch, "image": self.prepare(batch["image"])}
        # one autocast a call: it keeps the weights it casts, and those cast without gradient must not return
        with torch.autocast(batch["image"].device.type, torch.bfloat16, enabled=self.bf16):
            features = self.objective.features(self.model, batch)
        logit_scale = self.model.logit_scale
        assert isinstance(logit_scale, Tensor)
        return features, logit_scale.exp()


def distribute(forward: Forward, world: World) -> nn.Module:
    """``forward`` with its gradients averaged over processes."""
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
    """Add the gradient of the joined batch's mean loss to ``.grad``, and return this process's loss and its parts.

    ``forward`` is a :class:`Forward`, distributed or not, and ``batch`` this process's share of a global
    batch. ``seed`` gives the seed of the random numbers (dropout, stochastic depth) of a micro-batch.

    With ``accumulate`` > 1 the features of all micro-batches are computed first, without their graphs; the
    loss of the whole batch gives the gradient of each feature; and each micro-batch goes through the model
    once more to carry its features' gradients to the parameters (Gao et al. 2021, arXiv 2101.06983). The
    result is the gradient of the whole batch, but for batch norm, which normalizes by micro-batch. Memory is
    that of one micro-batch.
    """
    rest = _to({name: tensor for name, tensor in batch.items() if name != "image"}, world.device)
    micros = [
        dict(zip(batch, tensors, strict=True))
        for tensors in zip(*(tensor.chunk(accumulate) for tensor in batch.values()), strict=True)
    ]

    def run(module: nn.Module, number: int) -> tuple[dict[str, Tensor], Tensor]:
        torch.manual_seed(seed(number))
        result: tuple[dict[str, Tensor], Tensor] = module(_to(micros[number], world.device))
        return result

    if accumulate == 1:
        features, scale = run(forward, 0)
        parts = objective.loss(features, rest, scale, world.gather)
        parts["loss"].backward()
        return {name: part.detach() for name, part in parts.items()}

    bare = forward.module if isinstance(forward, DistributedDataParallel) else forward
    with torch.no_grad(), _buffers_kept(bare):
        ahead = [run(bare, number) for number in range(accumulate)]
    features = {name: _leaf(torch.cat([each[name] for each, _ in ahead])) for name in ahead[0][0]}
    scale = _leaf(ahead[0][1])
    parts = objective.loss(features, rest, scale, world.gather)
    parts["loss"].backward()
    for number in range(accumulate):
        last = number == accumulate - 1
        with contextlib.nullcontext() if last else _unsynchronized(forward):
            again, scale_again = run(forward, number)
            pairs = [
                (again[name], tensor.grad.chunk(accumulate)[number])
                for name, tensor in features.items()
                if tensor.grad is not None and again[name].requires_grad
            ]
            if last and scale_again.requires_grad and scale.grad is not None:
                pairs.append((scale_again, scale.grad))
            outputs, gradients = zip(*pairs, strict=True)
            torch.autograd.backward(outputs, gradients)
    return {name: part.detach() for name, part in parts.items()}


def random_seed(*place: int) -> int:
    """Return a seed for a place in training: run, step, process, micro-batch."""
    digest = hashlib.sha256(" ".join(map(str, place)).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _leaf(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_(tensor.is_floating_point())


def _to(batch: Batch, device: torch.device) -> Batch:
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


@contextlib.contextmanager
def _buffers_kept(module: nn.Module) -> Iterator[None]:
    """Undoes what a forward pass does to buffers: batch norm must count a sample once, not once a pass."""
    before = [buffer.clone() for buffer in module.buffers()]
    yield
    for buffer, value in zip(module.buffers(), before, strict=True):
        buffer.copy_(value)


def _unsynchronized(forward: nn.Module) -> contextlib.AbstractContextManager[None]:
    return forward.no_sync() if isinstance(forward, DistributedDataParallel) else contextlib.nullcontext()

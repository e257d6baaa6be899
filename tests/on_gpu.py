"""Checks of a GPU as plain functions of a device. ``test_gpu.py`` and ``python -m benchmarks gpu`` run them.

Each function returns its finding as text. All of them also run on a CPU, which tests the checks themselves.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from open_clip.coca_model import CoCa
from safetensors.torch import load_file
from torch import distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.captions import captioner, generate, supply_missing_classes
from mobileclip2.config.captioner import GenerationSettings
from mobileclip2.config.training import TrainSettings
from mobileclip2.data.preprocess import Preprocess
from mobileclip2.models.build import from_config
from mobileclip2.models.device import inference
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.sealed_tensors import read_metadata
from mobileclip2.progress import Step
from mobileclip2.stages.prefetch import to_device
from mobileclip2.training.batches import batches
from mobileclip2.training.distributed import World, _Gather, join
from mobileclip2.training.gradients import Forward, backward, distribute
from mobileclip2.training.objectives import Contrastive, Objective, Reinforced
from mobileclip2.training.trainer import train
from tests.mobileclip2.training.tiny_training import DIMS, SCALES, TinySource, tiny_batch, tiny_clip, tiny_conv_clip

TOWERS = {
    "embed_dim": 64,
    "custom_text": True,
    "vision_cfg": {"image_size": 64, "patch_size": 16, "width": 128, "layers": 4, "head_width": 32},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 128, "heads": 4, "layers": 4},
}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2}
COCA = {
    "embed_dim": 64,
    "vision_cfg": {
        "image_size": 32,
        "patch_size": 16,
        "width": 64,
        "layers": 2,
        "head_width": 32,
        "attentional_pool": True,
        "attn_pooler_heads": 2,
        "output_tokens": True,
    },
    "text_cfg": {**TEXT, "embed_cls": True, "output_tokens": True},
    "multimodal_cfg": {**TEXT, "layers": 3},
    "custom_text": True,
}
TEXTS = ["a red square", "a photo of two dogs on a wooden bridge", "blue", "handmade leather chair, free shipping"]


def bf16_embeddings(device: torch.device) -> str:
    """Embeddings in bf16 have the same directions as embeddings in fp32 on a CPU."""
    model = _towers()
    images = torch.randn(16, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    exact = torch.cat([model.embed_images(images), model.embed_texts(TEXTS)])
    model.model.to(device)
    with inference(device) if device.type == "cuda" else torch.autocast("cpu", torch.bfloat16):
        raw: torch.Tensor = model.model.encode_image(images.to(device))  # type: ignore[operator]
        assert raw.dtype == torch.bfloat16, f"the tower computed in {raw.dtype}"
        rough = torch.cat([model.embed_images(images.to(device)), model.embed_texts(TEXTS)])
    assert rough.dtype == torch.float32
    cosine = float((rough.cpu() * exact).sum(-1).min())
    assert cosine > 0.999, f"cosine {cosine} of bf16 with fp32"
    return f"smallest cosine with fp32 {cosine:.5f}"


def bf16_training(device: torch.device) -> str:
    """A training in bf16 lowers the loss and keeps its weights in fp32."""
    with _trained(tiny_clip(), Contrastive(), device, steps=40, precision="bf16") as (folder, model):
        losses = _losses(folder)
    first, last = sum(losses[:10]) / 10, sum(losses[-10:]) / 10
    assert last < 0.9 * first, f"the loss went from {first} to {last}"
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert {parameter.device.type for parameter in model.parameters()} == {device.type}
    return f"loss {first:.2f} to {last:.2f} in 40 steps"


def pinned_copies(device: torch.device) -> str:
    """Asynchronous copies are complete, although their source is dropped and its memory is used again."""
    work = torch.randn(512, 512, device=device)
    expected, arrived = [], []
    for number in range(64):
        source = torch.full((256, 1024), float(number))
        work = (work @ work).clamp(-1, 1)
        arrived.append(to_device(source, device) + 0)
        expected.append(float(number))
        del source
    means = torch.stack([each.mean() for each in arrived]).tolist()
    assert means == expected, "a copy does not hold what was sent"
    loaded = next(batches(TinySource(), _settings(), World(0, 1, device), 0))
    pinned = {tensor.is_pinned() for tensor in loaded.values()}
    assert pinned == {device.type == "cuda"}, f"the loader's batches are pinned: {pinned}"
    return "64 copies of 1 MB" + (", the loader's batches are pinned" if device.type == "cuda" else "")


def pixels_on_the_device(device: torch.device) -> str:
    """Pixels are normalized to the same numbers on the device as on a CPU."""
    pixels = torch.randint(0, 256, (8, 64, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    here, there = (Preprocess(64).normalized(pixels.to(place)).cpu() for place in ("cpu", device))
    difference = float((here - there).abs().max())
    assert difference <= 1e-6, f"they differ by {difference}"
    return f"largest difference {difference:.1e}"


def texts_without_padding(device: torch.device) -> str:
    """A text tower gives the same features with and without the columns that are padding."""
    model = _towers()
    model.model.to(device)
    with torch.no_grad():
        padded: torch.Tensor = model.model.encode_text(model.tokenize(TEXTS).to(device))  # type: ignore[operator]
    difference = float((nn.functional.normalize(padded, dim=-1) - model.embed_texts(TEXTS)).abs().max())
    assert difference < 1e-4, f"they differ by {difference}"
    return f"largest difference {difference:.1e}"


def exact_resume(device: torch.device) -> str:
    """A resumed training ends with the bytes of an uninterrupted one. Dropout draws from the device's generator."""
    objective = Reinforced(DIMS, SCALES)
    with _deterministic():
        with _trained(tiny_conv_clip(), objective, device) as (folder, _):
            expected = (folder / "model.safetensors").read_bytes(), (folder / "metrics.jsonl").read_bytes()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            try:
                _train(tiny_conv_clip(), objective, device, folder, progress=_stop_at(6))
                raise AssertionError("the training was not stopped")
            except _Stop:
                step = max(int(read_metadata(path)["step"]) for path in folder.glob("resume-*"))
            torch.rand(7, device=device)  # random numbers drawn in between must not have an effect
            _train(tiny_conv_clip(seed=1), objective, device, folder)
            found = (folder / "model.safetensors").read_bytes(), (folder / "metrics.jsonl").read_bytes()
    assert found[1] == expected[1], "the metrics of the resumed training differ"
    assert found[0] == expected[0], "the weights of the resumed training differ"
    return f"resumed at step {step} of 12, weights and metrics to the byte"


def repeatable_training(device: torch.device) -> str:
    """A repeated training, with the kernels that a training uses by default, ends with nearly the same weights."""
    ends = []
    for _ in range(2):
        with _trained(tiny_conv_clip(), Reinforced(DIMS, SCALES), device) as (folder, _):
            ends.append(load_file(folder / "model.safetensors"))
    difference = max(
        float((one.float() - other.float()).abs().max())
        for one, other in zip(*(end.values() for end in ends), strict=True)
    )
    assert difference < 1e-3, f"weights differ by {difference}"
    return "to the bit" if difference == 0 else f"weights differ by at most {difference:.1e}"


def micro_batches(device: torch.device) -> str:
    """The gradient of a batch in four parts equals the gradient of the whole batch."""
    gradients = []
    for accumulate in (1, 4):
        model = tiny_clip().to(device)
        _backward(Forward(model, Reinforced(DIMS, SCALES)), Reinforced(DIMS, SCALES), device, accumulate)
        gradients.append(_gradients(model))
    difference = float((gradients[0] - gradients[1]).norm() / gradients[0].norm())
    assert difference < 1e-3, f"they differ by {difference} of its length"
    return f"relative difference {difference:.1e}"


def ddp_of_one_process(device: torch.device) -> str:
    """NCCL (gloo on a CPU) starts on loopback, gathers and reduces. The gradients with and without DDP are equal."""
    backend = "nccl" if device.type == "cuda" else "gloo"
    for name in ("NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"):
        os.environ.setdefault(name, "lo")
    objective = Reinforced(DIMS, SCALES)
    alone = tiny_clip().to(device)
    _backward(Forward(alone, objective), objective, device)
    with tempfile.TemporaryDirectory() as folder:
        place = torch.device(device.type, 0) if device.type == "cuda" else None
        dist.init_process_group(backend, init_method=f"file://{folder}/meet", rank=0, world_size=1, device_id=place)
        try:
            with join(device) as world:
                assert (world.rank, world.size) == (0, 1)
                model = tiny_clip().to(device)
                assert isinstance(distribute(Forward(model, objective), world), Forward)
                wrapped = DistributedDataParallel(
                    Forward(model, objective), device_ids=[0] if device.type == "cuda" else None
                )
                _backward(wrapped, objective, device)
                x = torch.arange(6.0, device=device).view(3, 2).requires_grad_()
                _Gather.apply(x).square().sum().backward()
                assert x.grad is not None and torch.equal(x.grad, 2 * x)
                dist.barrier()
        finally:
            dist.destroy_process_group()
    torch.testing.assert_close(_gradients(model), _gradients(alone), rtol=1e-4, atol=1e-6)
    return f"{backend}, gradients as without"


def captions_of_open_clip(device: torch.device) -> str:
    """Greedy captions in fp32 are open_clip's, token for token."""
    supply_missing_classes()
    model, tokenizer = captioner(COCA, device)
    same, of = greedy_captions(model, tokenizer, torch.randn(8, 3, 32, 32, device=device))
    assert same == of, f"{same} of {of} captions are the same"
    return f"{same} of {of}"


def greedy_captions(model: CoCa, tokenizer: Any, images: torch.Tensor) -> tuple[int, int]:
    """Return the number of images whose greedy caption is that of open_clip, and the number of images."""
    found = generate(
        model, tokenizer, images, list(map(str, range(len(images)))), [0], GenerationSettings(temperature=0)
    )
    theirs = model.generate(images, generation_type="top_k", top_k=1, seq_len=30, min_seq_len=5).tolist()
    same = [
        [tokenizer.sot_token_id, *line] == their_line[: their_line.index(tokenizer.eot_token_id)]
        for (line,), their_line in zip(found, theirs, strict=True)
    ]
    return sum(same), len(same)


CHECKS: dict[str, Callable[[torch.device], str]] = {
    check.__name__: check
    for check in (
        bf16_embeddings,
        bf16_training,
        exact_resume,
        repeatable_training,
        ddp_of_one_process,
        captions_of_open_clip,
        pinned_copies,
        pixels_on_the_device,
        texts_without_padding,
        micro_batches,
    )
}


class _Stop(Exception):
    pass


def _stop_at(step: int) -> Callable[[Step], None]:
    def progress(sign: Step) -> None:
        if sign.done >= step:
            raise _Stop

    return progress


def _towers() -> ImageText:
    torch.manual_seed(0)
    built = from_config({"model_cfg": TOWERS})
    built.model.eval()
    return built


def _settings(**fields: Any) -> TrainSettings:
    given = {"steps": 12, "batch": 8, "learning_rate": 1e-3, "warmup": 2, "log_every": 1, "checkpoint_every": 4}
    return TrainSettings(**{**given, **fields})


def _train(
    model: nn.Module,
    objective: Objective,
    device: torch.device,
    folder: Path,
    progress: Callable[[Step], None] = lambda step: None,
    **fields: Any,
) -> None:
    train(
        model, objective, TinySource(), _settings(**fields), folder, device=device, fingerprint="a", progress=progress
    )


@contextmanager
def _trained(
    model: nn.Module, objective: Objective, device: torch.device, **fields: Any
) -> Iterator[tuple[Path, nn.Module]]:
    with tempfile.TemporaryDirectory() as folder:
        _train(model, objective, device, Path(folder), **fields)
        yield Path(folder), model


def _losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@contextmanager
def _deterministic() -> Iterator[None]:
    """Use kernels that add in a fixed order. cuBLAS needs its variable before its first use in a process."""
    before = torch.are_deterministic_algorithms_enabled()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before)


def _backward(forward: nn.Module, objective: Objective, device: torch.device, accumulate: int = 1) -> None:
    world = World(0, 1, device)
    backward(forward, objective, tiny_batch(), world, accumulate=accumulate, seed=lambda number: number)


def _gradients(model: nn.Module) -> torch.Tensor:
    return torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])

"""Small real models and data, shared by tests and the processes that they start."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import numpy as np
import torch
from open_clip.coca_model import CoCa
from open_clip.model import CLIP
from torch import nn
from torch.nn import functional as F

from mobileclip2.training.objectives import CoCaObjective, Contrastive, Objective, Reinforced
from tests.processes import start_process

SAMPLES = 40
VOCABULARY = 64
CONTEXT = 8
DIMS, SCALES = (8, 4), (50.0, 30.0)
TEXT = {"context_length": CONTEXT, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 1}


class TinySource:
    """Random images and captions of different lengths. Each sample depends only on its epoch and index."""

    def __init__(self, samples: int = SAMPLES, seed: int = 0) -> None:
        self.samples, self.seed = samples, seed

    def __len__(self) -> int:
        return self.samples

    def order(self, epoch: int) -> Iterator[np.ndarray]:
        yield np.random.default_rng([self.seed, epoch]).permutation(self.samples)

    def sample(self, epoch: int, index: int) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(1000 * epoch + index)

        def teachers() -> torch.Tensor:
            return torch.cat([F.normalize(torch.randn(dim, generator=generator), dim=0) for dim in DIMS])

        def caption(words: int) -> torch.Tensor:
            tokens = torch.randint(1, VOCABULARY - 1, (words,), generator=generator)
            return F.pad(torch.cat([tokens, torch.tensor([VOCABULARY - 1])]), (0, CONTEXT - words - 1))

        return {
            "image": torch.randn(3, 16, 16, generator=generator),
            "text": caption(2 + index % 5),
            "synthetic_text": caption(3 + index % 3),
            "teacher_image": teachers(),
            "teacher_text": teachers(),
            "teacher_synthetic_text": teachers(),
        }

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        return images


def tiny_batch(samples: int = 8) -> dict[str, torch.Tensor]:
    each = [TinySource().sample(0, index) for index in range(samples)]
    return {key: torch.stack([sample[key] for sample in each]) for key in each[0]}


def tiny_clip(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    vision = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    return CLIP(16, vision, TEXT)


def tiny_conv_clip(seed: int = 0) -> nn.Module:
    """Build a model with batch norm and dropout in its image tower."""
    torch.manual_seed(seed)
    model = CLIP(16, {"image_size": 16, "patch_size": 8, "width": 32, "layers": 0, "head_width": 16}, TEXT)
    model.visual = nn.Sequential(
        nn.Conv2d(3, 8, 4, stride=4),
        nn.BatchNorm2d(8),
        nn.GELU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(128, 16),
    )
    return model


def tiny_coca(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    vision = {"image_size": 16, "patch_size": 8, "width": 32, "layers": 1, "head_width": 16}
    pooler = {"attentional_pool": True, "attn_pooler_heads": 2, "output_tokens": True}
    model = CoCa(32, TEXT, {**TEXT, "embed_cls": True, "output_tokens": True}, {**vision, **pooler})
    nn.init.normal_(model.text_decoder.text_projection, std=0.1)
    return model


TRAININGS = {
    "contrastive": (tiny_clip, Contrastive()),
    "reinforced": (tiny_clip, Reinforced(DIMS, SCALES, distill=0.75)),
    "coca": (tiny_coca, CoCaObjective()),
}


def tiny_training(name: str) -> tuple[nn.Module, Objective]:
    build, objective = TRAININGS[name]
    return build(), objective


def start_world(size: int, function: Callable[..., None], *arguments: Any) -> list[BaseProcess]:
    """Start ``size`` processes with the environment variables of torchrun."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [start_process(function, *arguments, RANK=str(rank), LOCAL_RANK=str(rank), **shared) for rank in range(size)]


def finish(*processes: BaseProcess) -> None:
    try:
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0] * len(processes)
    finally:
        for process in processes:
            process.kill()

"""How long the towers of a model take as they are served: fused, one input at a time, and many together.

A measurement and no asset: it belongs to a machine and to a moment, so it is taken anew and never stored.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mobileclip2.models.image_text import ImageText
from mobileclip2.models.reparameterize import reparameterize

BATCH = 32
SECONDS = 0.5
"""that one number is measured for, after a quarter of it to warm up"""
CALLS = 5, 1000
"""fewest and most calls behind a number"""


@dataclass(frozen=True)
class Tower:
    """Percentiles are milliseconds of one input at a time, over ``calls`` of them."""

    parameters: int
    p50: float
    p90: float
    p99: float
    calls: int
    throughput: float
    """inputs a second, ``Latency.batch`` at once"""


@dataclass(frozen=True)
class Latency:
    """fp32, reparameterized; preprocessing and tokenizing are not in it."""

    machine: str
    batch: int
    image: Tower
    text: Tower

    @property
    def milliseconds(self) -> float:
        """Of one image and one text."""
        return self.image.p50 + self.text.p50


def measure_latency(model: ImageText, device: torch.device, *, batch: int = BATCH, seconds: float = SECONDS) -> Latency:
    """Measures both towers, which takes about five times ``seconds``; ``model`` stays as it is.

    On a GPU times are those between CUDA events, elsewhere those of a clock.
    """
    fused = reparameterize(model.model).to(device)
    size = model.preprocess.size
    images = torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    texts = model.tokenize(["a photo of a dog on a lawn"] * batch).to(device)
    network: Any = fused
    total, vision = _parameters(fused), _parameters(network.visual)
    towers = []
    for encode, inputs, parameters in (
        (network.encode_image, images, vision),
        (network.encode_text, texts, total - vision),
    ):
        one = _milliseconds(encode, inputs[:1], device, seconds)
        many = _milliseconds(encode, inputs, device, seconds)
        p50, p90, p99 = np.percentile(one, [50, 90, 99]).tolist()
        towers.append(Tower(parameters, p50, p90, p99, len(one), 1000 * batch / float(np.median(many))))
    return Latency(machine(device), batch, *towers)


def machine(device: torch.device) -> str:
    """Describe what a time depends on: the processor, its threads, and torch's version."""
    torch_version = f"torch {torch.__version__}"
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)}, {torch_version}"
    threads = torch.get_num_threads()
    return f"{_cpu()}, {threads} thread{'s' if threads > 1 else ''}, {torch_version}"


def _cpu() -> str:
    info = Path("/proc/cpuinfo")
    for line in info.read_text().splitlines() if info.exists() else []:
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _parameters(module: nn.Module) -> int:
    return sum(int(parameter.numel()) for parameter in module.parameters())


@torch.inference_mode()
def _milliseconds(
    encode: Callable[[torch.Tensor], torch.Tensor], inputs: torch.Tensor, device: torch.device, seconds: float
) -> list[float]:
    """One number a call, the first calls left out."""
    clock = _on_gpu if device.type == "cuda" else _on_cpu
    fewest, most = CALLS
    for budget in (seconds / 4, seconds):
        started, times = time.perf_counter(), list[float]()
        while len(times) < fewest or (len(times) < most and time.perf_counter() - started < budget):
            times.append(clock(lambda: encode(inputs)))
    return times


def _on_cpu(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return 1000 * (time.perf_counter() - started)


def _on_gpu(call: Callable[[], object]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    call()
    end.record()
    end.synchronize()
    milliseconds: float = start.elapsed_time(end)
    return milliseconds

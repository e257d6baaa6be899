"""Measure the latency and the throughput of a fused model.

Results depend on the machine and its load, so they are measured again for each report and not stored.
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
"""Duration of a measurement. The warm-up takes a quarter of it."""
CALLS = 5, 1000
"""Fewest and most calls of a measurement."""


@dataclass(frozen=True)
class Tower:
    """Latency percentiles in milliseconds for single inputs, over ``calls`` calls."""

    parameters: int
    p50: float
    p90: float
    p99: float
    calls: int
    throughput: float
    """Inputs per second in batches of ``Latency.batch``."""


@dataclass(frozen=True)
class Latency:
    """Latency of the reparameterized fp32 model, without preprocessing and tokenization."""

    machine: str
    batch: int
    image: Tower
    text: Tower

    @property
    def milliseconds(self) -> float:
        """Median latency of one image and one text."""
        return self.image.p50 + self.text.p50


def measure_latency(model: ImageText, device: torch.device, *, batch: int = BATCH, seconds: float = SECONDS) -> Latency:
    """Measure both towers of a fused copy of ``model`` in about five times ``seconds``.

    CUDA events measure times on a GPU, and a clock measures them on other devices.
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
    """Describe the processor, its number of threads and the version of torch."""
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
    """Measure each call and drop the calls of the warm-up."""
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

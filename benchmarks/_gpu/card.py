"""The card and the software of its machine: the facts that make numbers comparable."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks._gpu.section import Section
from benchmarks._turns import wait

ROOT = Path(__file__).parents[2]
PACKAGES = ("torch", "torchvision", "triton", "open_clip_torch", "timm", "transformers", "numpy", "pyarrow", "pillow")

DENSE_BF16 = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "A10": 125e12}
"""Operations per second from the vendors' data sheets, without sparsity.

The first key whose words are all in the name of the card applies.
"""


def run(section: Section) -> None:
    for name, value in facts(section.device).items():
        section.found(name, value)
    with section.attempt("matrix product"):
        section.value("bf16 matrix product, measured", product_rate(section.device, section.small) / 1e12, "TFLOP/s")
    with section.attempt("copies"):
        for what, rate in copy_rates(section.device, section.small).items():
            section.value(what, rate / 1e9, "GB/s")


def facts(device: torch.device) -> dict[str, str]:
    found = {
        "card": name_of(device),
        "python": platform.python_version(),
        "packages": ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        "cores": f"{os.cpu_count()}, torch takes {torch.get_num_threads()} threads",
        "C compiler": shutil.which(os.environ.get("CC", "cc")) or "none: torch.compile will fail",
        "precision": "bf16 autocast where bf16 is said, else fp32; "
        f"TF32 {_on(torch.backends.cuda.matmul.allow_tf32)} in matrix products, "
        f"{_on(torch.backends.cudnn.allow_tf32)} in convolutions",
    }
    if device.type == "cuda":
        free, total = torch.cuda.mem_get_info(device)
        found |= {
            "CUDA": f"{torch.version.cuda}, cuDNN {torch.backends.cudnn.version()}, NCCL {torch.cuda.nccl.version()}",
            "memory": f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} GiB free",
            "capability": ".".join(map(str, torch.cuda.get_device_capability(device))),
        }
    return found


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else f"no GPU: {os.cpu_count()} cores"


def commit() -> str:
    """Return the commit of the working tree and a hash of the sources. A copy without git has only the hash."""
    sources = hashlib.sha256()
    for folder in ("benchmarks", "mobileclip2"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            sources.update(path.read_bytes())
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty"], cwd=ROOT, capture_output=True, text=True
        ).stdout.strip()
    except OSError:
        found = ""
    return f"{found or 'unknown'}, sources {sources.hexdigest()[:12]}"


def peak(device: torch.device) -> tuple[float, str]:
    """Return the operations per second that count as full utilization, and the source of that number."""
    name = name_of(device)
    for part, rate in DENSE_BF16.items():
        if device.type == "cuda" and all(word in name for word in part.split()):
            return rate, f"{rate / 1e12:.0f} TFLOP/s by the data sheet"
    rate = product_rate(device, small=device.type == "cpu")
    return rate, f"{rate / 1e12:.2f} TFLOP/s, its measured matrix product"


def product_rate(device: torch.device, small: bool) -> float:
    side = 256 if small else 8192
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    one, other = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / seconds_of(lambda: one @ other, 3 if small else 20)


def copy_rates(device: torch.device, small: bool) -> dict[str, float]:
    """Return bytes per second. A copy within the device counts the bytes read and the bytes written."""
    size = 1 << (22 if small else 30)
    here = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there, too = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    return {
        "copy to the device, pinned": size / seconds_of(lambda: there.copy_(here, non_blocking=True), 3),
        "copy within the device": 2 * size / seconds_of(lambda: too.copy_(there), 3),
    }


def seconds_of(run: Callable[[], object], times: int, warm: int = 3) -> float:
    """Return the mean seconds per call of ``times`` calls in a row. The device may queue the calls."""
    for _ in range(warm):
        run()
    wait()
    started = time.perf_counter()
    for _ in range(times):
        run()
    wait()
    return (time.perf_counter() - started) / times


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _on(switch: bool) -> str:
    return "on" if switch else "off"

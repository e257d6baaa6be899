"""The card and what is on its machine: whatever a number needs to be compared with another."""

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
"""operations a second by the makers' data sheets, without sparsity; the first name that a card's holds counts"""


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
    """The commit of the working tree, and a hash of the sources: a copy without its repository has that alone."""
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
    """Operations a second that utilisation is a share of, and where the number is from."""
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
    """Bytes a second; a copy within the device counts bytes read and bytes written."""
    size = 1 << (22 if small else 30)
    here = torch.empty(size, dtype=torch.uint8, pin_memory=device.type == "cuda")
    there, too = (torch.empty(size, dtype=torch.uint8, device=device) for _ in range(2))
    return {
        "copy to the device, pinned": size / seconds_of(lambda: there.copy_(here, non_blocking=True), 3),
        "copy within the device": 2 * size / seconds_of(lambda: too.copy_(there), 3),
    }


def seconds_of(run: Callable[[], object], times: int, warm: int = 3) -> float:
    """Seconds of one of ``times`` calls in a row, which the device is left to queue."""
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

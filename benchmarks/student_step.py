"""The cost of a student's step on reinforced data, compared with the step on tensors in memory and with plain CLIP.

All times are from the project's trainer, without the first steps. The runs in memory use one batch for every step,
without reading and without transfer from a loader. The step of plain CLIP encodes one caption per image. The reinforced
step encodes two captions and uses the embeddings of two teachers. ``real`` is the reinforced step on one caption.

On a GPU, the students are MobileCLIP2-S0 and -B in bf16. On a CPU, the student is a transformer with 224 pixels and 77
tokens. It is small enough to repeat the run, and large enough that arithmetic dominates the time, not Python.
"""

from __future__ import annotations

import math
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice, repeat
from pathlib import Path
from typing import Any
from unittest.mock import patch

import open_clip
import torch

from benchmarks._pictures import write_reinforced
from benchmarks._turns import ratios, stated
from mobileclip2.config.training import TrainSettings
from mobileclip2.models.build import from_config
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.unpadded import encode_text
from mobileclip2.training import data, trainer
from mobileclip2.training.batches import batches
from mobileclip2.training.data import ReinforcedSource
from mobileclip2.training.distributed import World
from mobileclip2.training.losses import exact
from mobileclip2.training.objectives import Batch, Contrastive, Objective, Reinforced

TEACHERS = (768, 768)
VIEWS, REPEATS = 2, 5

Clocks = tuple[float, float]


@dataclass(frozen=True)
class Size:
    """The numbers of training steps that are timed."""

    batch: int
    steps: int
    """Timed steps, a multiple of ``warm``."""
    warm: int
    """Warm-up steps before the timed steps."""
    from_shards: int
    """Timed steps of a run from shards: more than the batches that the loader's processes hold ready."""


ON_GPU, ON_CPU = Size(512, 12, 4, 48), Size(32, 3, 1, 3)

SMALL = {
    "embed_dim": 256,
    "custom_text": True,
    "vision_cfg": {"image_size": 224, "patch_size": 16, "width": 256, "layers": 8, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 192, "heads": 3, "layers": 4},
}


def measure() -> dict[str, Any]:
    cuda = torch.cuda.is_available()
    names = ("MobileCLIP2-S0", "MobileCLIP2-B") if cuda else ("small ViT",)
    place = torch.device("cuda" if cuda else "cpu")
    return {
        "device": torch.cuda.get_device_name() if cuda else f"{os.cpu_count()} cores",
        "students": {name: compared(student(name), place, ON_GPU if cuda else ON_CPU) for name in names},
    }


def student(name: str) -> ImageText:
    torch.manual_seed(0)
    config = SMALL if name == "small ViT" else open_clip.get_model_config(name)
    return from_config({"model_cfg": config})


def compared(
    model: ImageText, device: torch.device, size: Size, repeats: int = REPEATS, until: float = math.inf
) -> dict[str, Any]:
    settings = settings_of(size, size.steps, device)
    reinforced, real = (Reinforced(TEACHERS, (70.0, 60.0), captions=kind) for kind in ("both", "real"))
    with read_from_tar(model, size) as source, tempfile.TemporaryDirectory() as scratch:
        prepared = in_memory(source, size.batch, device)

        def run(objective: Objective, steps: int, read: Callable[..., Iterator[Batch]], number: int) -> Clocks:
            """Return the seconds of a step: wall time and CPU time of this process."""
            ended: list[Clocks] = []
            place = Path(scratch) / f"{number}"
            place.mkdir()
            with patch.object(trainer, "batches", read):
                trainer.train(
                    model.model,
                    objective,
                    source,
                    settings_of(size, steps, device),
                    place,
                    device=device,
                    fingerprint="benchmark",
                    progress=lambda _: ended.append((time.perf_counter(), time.process_time())),
                )
            shutil.rmtree(place)
            first, last = ended[0], ended[-1]
            return (last[0] - first[0]) / steps, (last[1] - first[1]) / steps

        memory = lambda *_: islice(repeat(prepared), size.warm + size.steps)  # noqa: E731
        runs = {
            "reinforced, from shards": partial(run, reinforced, size.from_shards, batches),
            "reinforced, from memory": partial(run, reinforced, size.steps, memory),
            "reinforced, real captions": partial(run, real, size.steps, memory),
            "plain CLIP": partial(run, Contrastive(), size.steps, memory),
        }
        seconds: dict[str, list[float]] = {what: [] for what in runs}
        cpu: dict[str, list[float]] = {what: [] for what in runs}
        longest = 0.0
        for number in range(repeats):
            began = time.time()
            if number and began + longest > until:
                break
            for position, (what, timed) in enumerate(runs.items()):
                wall, busy = timed(number * len(runs) + position)
                seconds[what].append(wall)
                cpu[what].append(busy)
            longest = max(longest, time.time() - began)
        where = profile(model, reinforced, prepared, source, settings, device)
    shards, from_memory, _, clip = seconds.values()
    return {
        "batch": size.batch,
        "step_seconds": seconds,
        "memory_over_shards": ratios(from_memory, shards),
        "reinforced_over_clip": ratios(from_memory, clip),
        "reinforced_over_clip_cpu": ratios(cpu["reinforced, from memory"], cpu["plain CLIP"]),
        "step_cpu_seconds": cpu,
        "where": where,
    }


def settings_of(size: Size, steps: int, device: torch.device) -> TrainSettings:
    return TrainSettings(
        steps=steps + size.warm,
        batch=size.batch,
        learning_rate=1e-4,
        log_every=size.warm,  # logging waits for numbers from the device
        precision="bf16" if device.type == "cuda" else "fp32",
        workers=max(1, (os.cpu_count() or 1) - 1),
    )


@contextmanager
def read_from_tar(model: ImageText, size: Size) -> Iterator[ReinforcedSource]:
    """Yield a source with a few batches of different samples and without a cache."""
    with tempfile.TemporaryDirectory() as folder, patch.object(data, "CACHED_BYTES", 0):
        tar = write_reinforced(Path(folder) / "0.tar", size.batch * min(4, size.steps + size.warm), views=VIEWS)
        yield ReinforcedSource([tar], model.tokenize, model.preprocess, seed=0)


def in_memory(source: ReinforcedSource, batch: int, device: torch.device) -> Batch:
    settings = TrainSettings(steps=1, batch=batch, learning_rate=1e-4)
    one = next(batches(source, settings, World(0, 1, device), 0))
    return {key: tensor.to(device) for key, tensor in one.items()}


def profile(
    model: ImageText,
    objective: Reinforced,
    batch: Batch,
    source: ReinforcedSource,
    settings: TrainSettings,
    device: torch.device,
) -> dict[str, float]:
    """Return the seconds of each part of a step, as medians. Loading is CPU time in one process."""
    net: Any = model.model.train()
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.0, fused=True)
    found: dict[str, list[float]] = {}

    def timed(name: str, part: Callable[[], Any]) -> Any:
        _wait(device)
        started = time.perf_counter()
        result = part()
        _wait(device)
        found.setdefault(name, []).append(time.perf_counter() - started)
        return result

    for _ in range(4):
        _parts_of_a_step(net, objective, batch, source, settings, optimizer, timed)
    seconds = {name: statistics.median(values[1:]) for name, values in found.items()}
    started = time.process_time()
    some = min(settings.batch, 64)
    torch.utils.data.default_collate([source.sample(0, index) for index in range(some)])
    return {**seconds, "loading, in a process beside": (time.process_time() - started) * settings.batch / some}


def _parts_of_a_step(
    net: Any,
    objective: Reinforced,
    batch: Batch,
    source: ReinforcedSource,
    settings: TrainSettings,
    optimizer: torch.optim.Optimizer,
    timed: Callable[[str, Callable[[], Any]], Any],
) -> None:
    optimizer.zero_grad(set_to_none=True)
    images = timed("pixels to numbers", lambda: source.prepare(batch["image"]))
    with torch.autocast(images.device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
        image = timed("images forward", lambda: net.encode_image(images))
        text = timed("real captions forward", lambda: encode_text(net, batch["text"]))
        synthetic = timed("synthetic captions forward", lambda: encode_text(net, batch["synthetic_text"]))
    towers = {"image": image, "text": text, "synthetic_text": synthetic}
    features = {name: torch.nn.functional.normalize(exact(each), dim=-1) for name, each in towers.items()}
    rest = {key: value for key, value in batch.items() if key != "image"}
    scale = net.logit_scale.exp()
    parts = timed("loss", lambda: objective.loss(features, rest, scale, lambda each: each))
    timed("backward", parts["loss"].backward)
    timed("clip and optimizer", lambda: (torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0), optimizer.step()))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def show(numbers: dict[str, Any]) -> str:
    lines = [f"seconds of a training step, {numbers['device']}"]
    for name, found in numbers["students"].items():
        lines.append(f"  {name}, batch {found['batch']}")
        for what, values in found["step_seconds"].items():
            lines.append(
                f"    {what:28} median {statistics.median(values):.3f}  spread {max(values) - min(values):.3f}"
            )
        for what, key, target in (
            ("from memory / from shards", "memory_over_shards", "at least 0.95"),
            ("reinforced / plain CLIP", "reinforced_over_clip", "at most 1.10"),
            ("  the same in CPU time", "reinforced_over_clip_cpu", "at most 1.10"),
        ):
            lines.append(f"    {what:28} {stated(found[key])}  (target {target})")
        step = sum(value for part, value in found["where"].items() if not part.startswith("loading"))
        lines += [f"    {part:28} {value:.4f} s  {value / step:4.0%}" for part, value in found["where"].items()]
    return "\n".join(lines)

"""Embedding two views per image, from tar to sidecar, compared with the forward pass and a loop like the released one.

On a CPU, the models are a tower limited by arithmetic (ViT-B-32) and one limited by decoding (EfficientNet-Lite0). On a
GPU, the model is ViT-L-14, twice. The weights are random. The images are photo-like JPEGs.

- ``stage``: the work of ``teacher_embeddings/<teacher>/image`` on a shard, with a loaded model.
- ``forward``: the same model on tensors in the memory of its device, in the same precision.
- ``decode and augment``: all work of the stage before the model, with the same number of threads and without a model.
- ``released loop``: a loop like that of the released generator. It runs in fp32, decodes one image after the other for
  each batch, stacks and moves float tensors, and fetches results batch by batch.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from benchmarks._data import pipeline
from benchmarks._turns import Numbers, bars, device, in_turns, machine, ratio, table, verdict
from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import View, render
from mobileclip2.data.image import decode
from mobileclip2.engine.pipeline import Pipeline, Task
from mobileclip2.engine.shard import Shard
from mobileclip2.engine.shard_stage import encoded_images, raw_table, side_name
from mobileclip2.models.device import inference
from mobileclip2.models.image_text import ImageText
from mobileclip2.stages.load_model import load_image_text
from mobileclip2.stages.prefetch import prepared
from mobileclip2.stages.teacher_embeddings import embed_views

TEXT = {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
LITE = {
    "embed_dim": 256,
    "vision_cfg": {
        "timm_model_name": "tf_efficientnet_lite0",
        "timm_model_pretrained": False,
        "timm_pool": "avg",
        "timm_proj": "linear",
        "image_size": 224,
    },
    "text_cfg": TEXT,
    "custom_text": True,
}
ON_CPU, ON_GPU = (48, 32, 3), (4096, 256, 5)
"""Images, batch, repeats."""

ALONE = 64
"""Number of images whose steps are timed one by one."""

VIEWS, KEPT, FASTER = 2, 0.90, 2.0


def measure() -> Numbers:
    place = device()
    on_gpu = place.type == "cuda"
    teachers: dict[str, Any] = {"one": "ViT-L-14", "other": "ViT-L-14"} if on_gpu else {"vit": "ViT-B-32", "lite": LITE}
    samples, batch, repeats = ON_GPU if on_gpu else ON_CPU
    with tempfile.TemporaryDirectory() as folder:
        made = pipeline(Path(folder), teachers, samples=samples, views={"count": VIEWS})
        made.materialize("raw_shards", "g00")
        made.materialize("augmentations", "g00")
        measured = {}
        for name in teachers:
            made.materialize(f"teacher/{name}")
            measured[name] = compared(Ready.of(made, name, place), batch, repeats, place)
    return {
        "machine": machine(),
        "images": samples,
        "views": VIEWS,
        "batch": batch,
        "on_gpu": on_gpu,
        "teachers": {
            name: given if isinstance(given, str) else "EfficientNet-Lite0" for name, given in teachers.items()
        },
        "measured": measured,
    }


@dataclass(frozen=True)
class Ready:
    """A teacher on its device, and the only shard of a pipeline with its stored views."""

    teacher: ImageText
    shard: Shard
    parts: list[Task]
    raw: pa.Table
    views: list[list[View]]

    @classmethod
    def of(cls, made: Pipeline, name: str, place: torch.device) -> Ready:
        (stored,) = made.read(f"teacher/{name}")
        teacher = load_image_text(stored, made.inventory)
        teacher.model.to(place)
        (shard,) = made.inventory.group_shards("g00")
        asset = made.graph[f"teacher_embeddings/{name}/image"]
        works = [made.task_for(asset, part, "g00") for part in asset.slices.values()]
        parts = [work for work in works if work]
        tables = [sidecar.read(part.only("view").fetch(side_name(shard))) for part in parts]
        views = [[View.from_json(text) for text in table_.column("view").to_pylist()] for table_ in tables]
        return cls(teacher, shard, parts, raw_table(parts[0].only("raw_shards"), shard), views)

    def pixels(self, batch: int) -> Iterator[torch.Tensor]:
        """Yield views as the stage prepares them: uint8 ``[batch, size, size, 3]``."""
        preprocess = self.teacher.preprocess

        def drawn(number: int, image: Any) -> torch.Tensor:
            each = (render(image, of_part[number], preprocess.size, preprocess.interpolation) for of_part in self.views)
            return torch.stack([preprocess.pixels(view) for view in each])

        for some in prepared(self.shard, self.raw, drawn, batch // len(self.views)):
            yield some.flatten(0, 1)


def compared(ready: Ready, batch: int, repeats: int, place: torch.device, until: float = math.inf) -> Numbers:
    teacher, shard, raw, views = ready.teacher, ready.shard, ready.raw, ready.views
    in_memory = [teacher.preprocess.normalized(pixels.to(place)) for pixels in ready.pixels(batch)]

    def forward() -> None:
        with inference(place):
            torch.cat([teacher.embed_images(images) for images in in_memory]).cpu()

    def alone() -> None:
        for _ in ready.pixels(batch):
            pass

    times = in_turns(
        {
            "stage": lambda: embed_views(teacher, shard, ready.parts, batch, place),
            "forward": forward,
            "decode and augment": alone,
            "released loop": lambda: released_loop(teacher, encoded_images(shard, raw), views, batch, place),
        },
        repeats,
        until,
    )
    return {
        "times": times,
        "of_forward": ratio(times, "forward", "stage"),
        "of_both": ratio(times, ["forward", "decode and augment"], "stage"),
        "faster": ratio(times, "released loop", "stage"),
        "where": where(teacher, list(islice(encoded_images(shard, raw), ALONE)), views, in_memory, place),
    }


@torch.inference_mode()
def released_loop(
    teacher: ImageText, images: Iterator[tuple[str, bytes]], views: list[list[View]], batch: int, place: torch.device
) -> np.ndarray:
    rows: list[torch.Tensor] = []
    waiting: list[torch.Tensor] = []

    def flush() -> None:
        rows.append(teacher.embed_images(torch.stack(waiting).to(place)).cpu())
        waiting.clear()

    for number, (_, data) in enumerate(images):
        image = decode(data)
        for of_view in views:
            waiting.append(teacher.preprocess.tensor(render(image, of_view[number], teacher.preprocess.size)))
            if len(waiting) == batch:
                flush()
    if waiting:
        flush()
    return torch.cat(rows).numpy()


def where(
    teacher: ImageText,
    images: list[tuple[str, bytes]],
    views: list[list[View]],
    in_memory: list[torch.Tensor],
    place: torch.device,
) -> dict[str, float]:
    """Return the CPU seconds of each step alone. A forward pass on a GPU is in seconds of the GPU."""
    spent = dict.fromkeys(("decode", "crop and resize", "RandAugment", "to a batch", "normalize", "forward"), 0.0)

    @contextmanager
    def clocked(name: str, clock: Callable[[], float] = time.process_time) -> Iterator[None]:
        started = clock()
        yield
        spent[name] += clock() - started

    preprocess, drawn = teacher.preprocess, []
    for number, (_, data) in enumerate(images):
        with clocked("decode"):
            image = decode(data)
        for of_view in views:
            with clocked("crop and resize"):
                plain = render(image, View(of_view[number].crop, None), preprocess.size)
            with clocked("RandAugment"):
                all_of_it = View((0, 0, preprocess.size, preprocess.size), of_view[number].ops)
                view = render(plain, all_of_it, preprocess.size)
            with clocked("to a batch"):
                drawn.append(preprocess.pixels(view))
    with clocked("to a batch"):
        batch = torch.stack(drawn)
    with clocked("normalize"):
        preprocess.normalized(batch)
    whole = len(in_memory[0])
    same = torch.cat(in_memory[: 1 + len(drawn) // whole])[: len(drawn)].split(whole)
    with clocked("forward", time.perf_counter if place.type == "cuda" else time.process_time), inference(place):
        torch.cat([teacher.embed_images(some) for some in same]).cpu()
    return spent


def show(numbers: Numbers) -> str:
    lines = [
        f"{numbers['views']} views of {numbers['images']} images in batches of {numbers['batch']}; {numbers['machine']}"
    ]
    for name, found in numbers["measured"].items():
        of = found["of_forward" if numbers["on_gpu"] else "of_both"]
        what = "forward" if numbers["on_gpu"] else "forward + decode and augment"
        faster = found["faster"]
        lines += [
            f"{numbers['teachers'][name]}, milliseconds a view",
            *table(found["times"], "stage", numbers["images"] * numbers["views"], "ms"),
            f"  {what} to stage: {of['wall']:.2f} (CPU time {of['cpu']:.2f}), {verdict(of['wall'], KEPT)}",
            f"  released loop to stage: {faster['wall']:.2f} x (CPU time {faster['cpu']:.2f} x)"
            + (f", {verdict(faster['wall'], FASTER)}" if numbers["on_gpu"] else ", the target is for a GPU"),
            "  where the time goes, each step alone",
            *bars(found["where"]),
        ]
    return "\n".join(lines)

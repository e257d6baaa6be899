"""Image embeddings of a ViT-L/14 teacher: the stage, the forward pass, a loop like the released one, and decoding."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._data import pipeline, uninitialized
from benchmarks._gpu.card import peak, seconds_of
from benchmarks._gpu.kernels import profile
from benchmarks._gpu.section import Section
from benchmarks.image_embeddings import FASTER, KEPT, VIEWS, Ready, compared
from mobileclip2.models.device import inference
from mobileclip2.stages.teacher_embeddings import embed_views
from tests.on_gpu import TOWERS

PARTS = ("stage", "forward", "decode and augment", "released loop")


def run(section: Section) -> None:
    images, batch, repeats = (8, 8, 1) if section.small else (2048, 256, 3)
    sizes = (4, 8) if section.small else (256, 64, 512, 1024)
    with made(section, images) as ready:
        with section.attempt("stage, forward and released loop"):
            end_to_end(section, ready, batch, repeats, section.by(0.6))
        with section.attempt("forward"):
            bare(section, ready, sizes)
        with section.attempt("decode cores"):
            cores(section, ready, batch)
        with section.attempt("profile"):
            stage = lambda: embed_views(ready.teacher, ready.shard, ready.parts, batch, section.device)  # noqa: E731
            section.lines("stage, by kernel", profile(stage, section.device).lines(f"{images} images"))


@contextmanager
def made(section: Section, images: int) -> Iterator[Ready]:
    config: dict[str, Any] | str = TOWERS if section.small else "ViT-L-14"
    with tempfile.TemporaryDirectory() as folder:
        whole = pipeline(Path(folder), {"teacher": config}, samples=images, views={"count": VIEWS})
        with uninitialized():
            for key, group in (("raw_shards", "g00"), ("augmentations", "g00"), ("teacher/teacher", None)):
                whole.materialize(key, group)
            ready = Ready.of(whole, "teacher", section.device)
        yield ready


def end_to_end(section: Section, ready: Ready, batch: int, repeats: int, until: float) -> None:
    found = compared(ready, batch, repeats, section.device, until)
    views = VIEWS * len(ready.raw)
    seconds = {part: found["times"][part]["wall"] for part in PARTS}
    for part, each in seconds.items():
        section.value(f"{part}, batch {batch}", [views / one for one in each], "views/s")
    stage, forward, _, released = seconds.values()
    section.value("forward / stage", [bare / whole for bare, whole in zip(forward, stage, strict=True)], target=KEPT)
    section.value(
        "released loop / stage", [loop / whole for loop, whole in zip(released, stage, strict=True)], target=FASTER
    )
    total = sum(found["where"].values())
    section.lines(
        "steps, each alone in one thread, the forward pass on the device",
        [f"{spent / total:5.1%} {1e3 * spent:9.3f} ms {part}" for part, spent in found["where"].items()],
    )


def bare(section: Section, ready: Ready, sizes: tuple[int, ...]) -> None:
    """Time the forward pass alone, to find the batch size that fills the card."""
    teacher, device = ready.teacher, section.device
    rate, origin = peak(device)
    size = teacher.preprocess.size
    for batch in sizes:
        with section.attempt(f"forward, batch {batch}"):
            section.require(2)
            images = torch.randn(batch, 3, size, size, device=device)
            with inference(device):
                with FlopCounterMode(display=False) as counter:
                    teacher.embed_images(images)
                seconds = seconds_of(lambda images=images: teacher.embed_images(images), 2 if section.small else 10)  # type: ignore[misc]
            section.value(f"forward, batch {batch}", batch / seconds, "views/s")
            section.value(
                f"forward, batch {batch}, model FLOP utilisation",
                counter.get_total_flops() / seconds / rate,
                f"of {origin}",
            )


def cores(section: Section, ready: Ready, batch: int) -> None:
    """Measure the views per second for several numbers of decoding threads, while no model runs."""
    threads = torch.get_num_threads()
    views = VIEWS * len(ready.raw)
    wanted = [count for count in (1, 2, 4, 8, 16, 32) if count <= threads] or [1]
    rates: dict[int, float] = {}
    try:
        for count in reversed(wanted):
            if section.left() < 1.5 * views / rates.get(2 * count, float("inf")) * 2:
                break
            torch.set_num_threads(count)
            started = time.perf_counter()
            for _ in ready.pixels(batch):
                pass
            rates[count] = views / (time.perf_counter() - started)
            section.value(f"decode and augment, {count} threads", rates[count], "views/s")
    finally:
        torch.set_num_threads(threads)
    fewest = min(rates)
    with inference(section.device):
        size = ready.teacher.preprocess.size
        images = torch.randn(batch, 3, size, size, device=section.device)
        forward = batch / seconds_of(lambda: ready.teacher.embed_images(images), 2 if section.small else 10)
    section.value("cores that keep the card busy, at the rate of the fewest threads", forward / rates[fewest] * fewest)

"""A student's step on reinforced data, compared with plain CLIP and with tensors in memory, by batch and compilation.

The first part runs the trainer. The second part runs its step (forward, loss, backward, clipping, optimizer) on
tensors in memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from functools import lru_cache
from itertools import islice
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._gpu.card import peak, seconds_of
from benchmarks._gpu.kernels import profile
from benchmarks._gpu.section import Section
from benchmarks._turns import wait
from benchmarks.student_step import TEACHERS, Size, compared, in_memory, read_from_tar, settings_of, student
from mobileclip2.models.build import from_config
from mobileclip2.models.image_text import ImageText
from mobileclip2.training.batches import batches
from mobileclip2.training.data import ReinforcedSource
from mobileclip2.training.distributed import World
from mobileclip2.training.gradients import Forward, backward
from mobileclip2.training.objectives import Batch, Contrastive, Objective, Reinforced
from mobileclip2.training.trainer import parameter_groups, train_mode
from tests.on_gpu import TOWERS

STUDENTS = ("MobileCLIP2-S0", "MobileCLIP2-B")
COMPILED, RECOMPUTING = "torch.compile", "activations recomputed"
MEMORY_OVER_SHARDS, OVER_CLIP = 0.95, 1.10
COMPILING = 60.0
"""Seconds that torch.compile may take for a model."""


def run(section: Section) -> None:
    names = ("tiny",) if section.small else STUDENTS
    size = Size(8, 2, 1, 2) if section.small else Size(512, 12, 4, 48)
    sizes = (4, 8) if section.small else (256, 512, 1024)
    repeats = 1 if section.small else 3
    for left, name in zip(range(len(names), 0, -1), names, strict=True):
        with section.attempt(f"{name}: training"):
            trained(section, name, size, repeats, section.by(0.45 / left))
    for left, name in zip(range(len(names), 0, -1), names, strict=True):
        with section.attempt(f"{name}: step"):
            by_batch(section, name, sizes, size, section.by(0.8 / left))
    for name in names:
        with section.attempt(f"{name}: torch.compile"):
            section.require(0 if section.small else COMPILING)
            one(section, name, sizes[1] if len(sizes) > 1 else sizes[0], COMPILED, size)


def trained(section: Section, name: str, size: Size, repeats: int, until: float) -> None:
    """Time the trainer from shards, from memory, on one caption, and with the plain CLIP loss."""
    model = built(name)
    found = compared(model, section.device, size, repeats, until)
    for what, seconds in found["step_seconds"].items():
        section.value(f"{name}, batch {size.batch}, {what}", [1e3 * each for each in seconds], "ms a step")
    pairs = found["step_seconds"]
    shards, memory, _, clip = pairs.values()
    section.value(
        f"{name}, step from memory / from shards",
        [above / below for above, below in zip(memory, shards, strict=True)],
        target=MEMORY_OVER_SHARDS,
    )
    section.value(
        f"{name}, step reinforced / plain CLIP",
        [above / below for above, below in zip(memory, clip, strict=True)],
        target=OVER_CLIP,
        at_least=False,
    )
    step = sum(seconds for part, seconds in found["where"].items() if not part.startswith("loading"))
    section.lines(
        f"{name}, batch {size.batch}, parts of a step, each waited for",
        [f"{seconds / step:5.1%} {1e3 * seconds:9.3f} ms {part}" for part, seconds in found["where"].items()],
    )
    with section.attempt(f"{name}: loader alone"), read_from_tar(model, size) as source:
        section.value(
            f"{name}, loader alone, {settings_of(size, 1, section.device).workers} processes",
            loader_rate(source, size, section.device),
            "samples/s",
        )


def loader_rate(source: ReinforcedSource, size: Size, device: torch.device) -> float:
    """Return the samples per second that the loader's processes deliver, without the batches that they hold ready."""
    settings = settings_of(size, 4 * size.from_shards, device)
    ready = 2 * settings.workers if size.from_shards > 2 * settings.workers else 1
    loaded = batches(source, settings, World(0, 1, device), 0)
    for _ in islice(loaded, ready):
        pass
    started = time.perf_counter()
    taken = sum(len(batch["image"]) for batch in islice(loaded, size.from_shards))
    return taken / (time.perf_counter() - started)


def by_batch(section: Section, name: str, sizes: tuple[int, ...], size: Size, until: float) -> None:
    """Time steps by batch size. The middle size comes first, with a profile and variants."""
    middle = sizes[len(sizes) // 2]
    one(section, name, middle, "eager", size, profiled=True)
    for variant in ("channels-last", "plain CLIP"):
        with section.attempt(f"{name}, batch {middle}, {variant}"):
            one(section, name, middle, variant, size)
    for batch in sizes:
        if batch != middle and time.time() < until:
            with section.attempt(f"{name}, batch {batch}, eager"):
                one(section, name, batch, "eager", size)
    with section.attempt(f"{name}, batch {max(sizes)}, {RECOMPUTING}"):
        section.require(5)
        one(section, name, max(sizes), RECOMPUTING, size)


def one(section: Section, name: str, batch: int, variant: str, size: Size, profiled: bool = False) -> None:
    """Record the samples per second, the FLOP utilization and the peak memory of a step."""
    device, what = section.device, f"{name}, batch {batch}, {variant}"
    model = built(name)
    some = one_batch(name, size.batch)
    step = step_of(model, {key: rows.to(device) for key, rows in tiled(some, batch).items()}, section, variant)
    counted = variant not in (COMPILED, RECOMPUTING)  # the counter misses compiled kernels and counts recomputation
    started = time.perf_counter()
    with FlopCounterMode(display=False) if counted else nullcontext() as counter:
        step()
        wait()
    if variant == COMPILED:
        section.value(f"{what}, first step", time.perf_counter() - started, "s")
    if section.on_gpu:
        torch.cuda.reset_peak_memory_stats()
    steps = 1 if section.small else 5
    each = [seconds_of(step, steps, warm=2 if number == 0 else 0) for number in range(1 if section.small else 3)]
    section.value(what, [batch / seconds for seconds in each], "samples/s")
    if counter:
        operations = counter.get_total_flops()
        rate, origin = peak(device)
        section.value(f"{what}, model FLOP utilisation", [operations / s / rate for s in each], f"of {origin}")
        section.value(f"{what}, operations", operations / batch / 1e9, "GFLOP a sample")
    if section.on_gpu:
        section.value(f"{what}, peak memory", torch.cuda.max_memory_allocated() / 2**30, "GiB")
    if profiled:
        section.lines(f"{what}, by kernel", profile(step, device).lines("a step"))


@lru_cache
def one_batch(name: str, batch: int) -> Batch:
    """Return a batch as the loader returns it, on the CPU."""
    with read_from_tar(built(name), Size(batch, 0, 1, 0)) as source:
        return in_memory(source, batch, torch.device("cpu"))


def step_of(model: ImageText, batch: Batch, section: Section, variant: str) -> Callable[[], None]:
    """Return a function that takes one training step like the trainer's."""
    device = section.device
    net: Any = model.model.to(device)
    if variant == "channels-last":
        net = net.to(memory_format=torch.channels_last)
    if variant == RECOMPUTING:
        net.set_grad_checkpointing(True)
    objective: Objective = Contrastive() if variant == "plain CLIP" else Reinforced(TEACHERS, (70.0, 60.0))
    train_mode(net)
    optimizer = torch.optim.AdamW(parameter_groups(net, 0.2), lr=1e-4, betas=(0.9, 0.95), fused=True)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    forward: Any = Forward(net, objective, bf16=section.on_gpu, prepare=model.preprocess.normalized)
    if variant == COMPILED:
        # a rehearsal only traces, because the compiler takes too long
        forward = torch.compile(forward, backend="eager" if section.small else "inductor")
    needed = {key: batch[key] for key in objective.needs}
    world = World(0, 1, device)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        backward(forward, objective, needed, world, accumulate=1, seed=lambda _: 0)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()

    return step


def tiled(batch: Batch, size: int) -> Batch:
    """Return a batch of another size. Repeated samples do not change the time of the arithmetic."""
    times = -(-size // len(batch["image"]))
    return {key: torch.cat([rows] * times)[:size] for key, rows in batch.items()}


def built(name: str) -> ImageText:
    if name != "tiny":
        return student(name)
    torch.manual_seed(0)
    return from_config({"model_cfg": TOWERS})

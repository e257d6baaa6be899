"""The evaluation of a model on a classification set, compared with its towers and with decoding, each alone."""

from __future__ import annotations

from open_clip.factory import get_model_config

from benchmarks._gpu.section import Section
from benchmarks.evaluation import KEPT, MODELS, compared
from tests.on_gpu import TOWERS


def run(section: Section) -> None:
    models = {"tiny": TOWERS} if section.small else {name: get_model_config(name) for name in MODELS}
    images, batch, repeats = (16, 8, 1) if section.small else (2048, 256, 3)
    for left, (name, config) in zip(range(len(models), 0, -1), models.items(), strict=True):
        with section.attempt(name):
            found = compared({name: config}, images, batch, repeats, section.device, section.by(0.8 / left))
            times = {part: clocks["wall"] for part, clocks in found["measured"][name]["times"].items()}
            for part in ("evaluate", "image tower", "decode and resize", "again"):
                section.value(f"{name}, {part}", [images / seconds for seconds in times[part]], "images/s")
            alone = [times[part] for part in ("image tower", "text tower", "decode and resize")]
            section.value(
                f"{name}, towers + decode and resize, each alone, / evaluate",
                [sum(parts) / whole for *parts, whole in zip(*alone, times["evaluate"], strict=True)],
                target=KEPT,
            )

"""Caption embeddings with the text tower of ViT-L/14, compared with padded batches."""

from __future__ import annotations

from open_clip.factory import get_model_config

from benchmarks._gpu.section import Section
from benchmarks.text_embeddings import WANTED, compared
from tests.on_gpu import TOWERS


def run(section: Section) -> None:
    config = TOWERS if section.small else get_model_config("ViT-L-14")
    count, batch, repeats = (16, 8, 1) if section.small else (16384, 256, 3)
    with section.attempt("texts"):
        found = compared(config, count, batch, repeats, section.device, section.by(0.8))
        for kind, each in found["measured"].items():
            stage, padded = (each["times"][name]["wall"] for name in ("stage", "padded"))
            section.value(f"stage, {kind}", [count / seconds for seconds in stage], "texts/s")
            section.value(
                f"padded / stage, {kind}",
                [other / ours for other, ours in zip(padded, stage, strict=True)],
                target=WANTED,
            )
        section.value("tokenize alone", count / found["tokenize_seconds"], "texts/s")
        section.value("largest difference of a number", found["largest_difference"])

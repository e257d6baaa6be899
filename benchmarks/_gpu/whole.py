"""From a raw shard to a reinforced shard, compared with a generator like the released one, and the card-hours."""

from __future__ import annotations

from benchmarks._gpu.section import Section
from benchmarks.whole import FASTER, FULL, Size, compared, on_gpu
from tests.on_gpu import COCA, TOWERS


def run(section: Section) -> None:
    size = Size(TOWERS, COCA, 2, 2, 1, 2, 1) if section.small else on_gpu()
    with section.attempt("raw shard to reinforced shard"):
        found = compared(size, section.device, section.by(0.9))
        seconds = {name: clocks["wall"] for name, clocks in found["seconds_a_sample"].items()}
        for name, each in seconds.items():
            section.value(f"{name}, {found['samples'][name]} samples", [1 / one for one in each], "samples/s")
        pairs = zip(seconds["twin"], seconds["ours"], strict=True)
        section.value("released generator's shape / ours", [twin / ours for twin, ours in pairs], target=FASTER)
        section.value("least cosine of image embeddings, bf16 and fp32", found["least_cosine"])
        for what, samples in FULL.items():
            for name, each in seconds.items():
                section.value(f"{what} samples, {name}", [samples * one / 3600 for one in each], "card-hours")
        parts = found["parts"]
        total = sum(parts["ours"].values())
        section.lines(
            f"ours by part, against the twin; the largest is {found['largest']}",
            [
                f"{ours / total:5.1%} {1e3 * ours:9.3f} ms a sample, twin {1e3 * parts['twin'][part]:9.3f} ms  {part}"
                for part, ours in parts["ours"].items()
            ],
        )

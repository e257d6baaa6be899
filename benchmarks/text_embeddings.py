"""Compare caption embeddings of the stage with padded batches in the order of the shard, which embed every text.

The text tower is that of ViT-B-32 on a CPU and of ViT-L-14 on a GPU, with random weights. Captions have 5 to 25 words.
There are two measurements: one with different texts, so that only the padding counts, and one in which a fifth of the
texts occur twice, as in the output of a captioner.
"""

from __future__ import annotations

import math
import time
from functools import partial
from typing import Any

import torch
from open_clip.factory import get_model_config
from torch.nn import functional as F

from benchmarks._data import captions
from benchmarks._turns import Numbers, device, in_turns, machine, ratio, table, verdict
from mobileclip2.models.batched import each_text_once
from mobileclip2.models.build import from_config
from mobileclip2.models.device import inference

WANTED = 2.0


def measure() -> Numbers:
    place = device()
    name, count, batch, repeats = ("ViT-B-32", 192, 64, 3) if place.type == "cpu" else ("ViT-L-14", 32768, 256, 5)
    return {"machine": machine(), "model": name, **compared(get_model_config(name), count, batch, repeats, place)}


def compared(
    config: Numbers, count: int, batch: int, repeats: int, place: torch.device, until: float = math.inf
) -> Numbers:
    torch.manual_seed(0)
    model = from_config({"model_cfg": config})
    network: Any = model.model.to(place)

    @torch.inference_mode()
    def padded(texts: list[str]) -> torch.Tensor:
        rows = []
        with inference(place):
            for start in range(0, len(texts), batch):
                tokens = model.tokenize(texts[start : start + batch]).to(place)
                rows.append(F.normalize(network.encode_text(tokens).float(), dim=-1).cpu())
        return torch.cat(rows)

    def ours(texts: list[str]) -> torch.Tensor:
        with inference(place):
            return each_text_once(model.embed_texts, texts, batch)

    different = captions(count)
    sets = {
        "all different": different,
        "a fifth of them twice": different[: count - count // 5] + different[: count // 5],
    }
    measured = {}
    for kind, texts in sets.items():
        times = in_turns({"stage": partial(ours, texts), "padded": partial(padded, texts)}, repeats, until)
        measured[kind] = {"times": times, "faster": ratio(times, "padded", "stage")}
    started = time.perf_counter()
    tokens = (model.tokenize(different) != 0).sum(1).float()
    tokenized = time.perf_counter() - started
    return {
        "texts": count,
        "batch": batch,
        "tokens": float(tokens.mean()),
        "tokenize_seconds": tokenized,
        "largest_difference": float((ours(different) - padded(different)).abs().max()),
        "measured": measured,
    }


def show(numbers: Numbers) -> str:
    lines = [
        f"{numbers['texts']} texts of {numbers['tokens']:.0f} tokens on average, {numbers['model']}, batches of "
        f"{numbers['batch']}; {numbers['machine']}; milliseconds a text"
    ]
    for kind, found in numbers["measured"].items():
        faster = found["faster"]
        lines += [
            f"{kind}",
            *table(found["times"], "stage", numbers["texts"], "ms"),
            f"  padded to stage: {faster['wall']:.1f} x (CPU time {faster['cpu']:.1f} x), {verdict(faster['wall'], WANTED)}",
        ]
    return "\n".join([*lines, f"largest difference of a number of an embedding: {numbers['largest_difference']:.1e}"])

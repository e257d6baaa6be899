"""Estimate the cost of making DFNDR-2B on 64 H100s by counting operations. No model runs.

torch's counter counts the operations of the real architectures on meta tensors. Each multiplication and each addition
of matrix products and convolutions counts as one. Values that are assumed and not measured are marked ASSUMED.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip import create_model
from torch.utils.flop_counter import FlopCounterMode

from benchmarks._turns import Numbers

SAMPLES, VIEWS, TEACHERS, CAPTIONS, TOKENS = 1.9e9, 2, 2, 5, 28
TEXT_TOKENS = 20
"""Tokens of a caption with start and end. Columns that are padding in a whole batch are left out."""

GPUS, PEAK, UTILISATION = 64, 989e12, 0.40
"""GPUs, dense bf16 operations per second of an H100, and the share that a ViT of this size reaches.

The share is ASSUMED, because no H100 was available.
"""

KEPT = 0.90
"""Share of the bare forward pass that a whole stage reaches.

``image_embeddings`` measures it on a CPU. For a GPU it is ASSUMED.
"""

OVER_BARE = 1.39
"""Time of captions relative to their bare arithmetic.

``captions`` measured it on a CPU at 160 captions per step. For a GPU it is ASSUMED.
"""


def measure() -> Numbers:
    with torch.device("meta"):
        teacher: Any = create_model("ViT-L-14", load_weights=False, device="meta").eval()
        coca: Any = create_model("coca_ViT-L-14", load_weights=False, device="meta").eval()
        image = torch.empty(1, 3, 224, 224)
        whole = torch.zeros(1, 77, dtype=torch.long)
        embeds, head = torch.empty(1, TOKENS, coca.text.width), coca.text_decoder
        seen = coca.visual(image)[1]
        each = {
            "teacher, a view": count(lambda: teacher.encode_image(image)),
            f"teacher, a text of {TEXT_TOKENS} tokens": count(lambda: teacher.encode_text(whole)) * TEXT_TOKENS / 77,
            "CoCa, an image": count(lambda: coca.visual(image)),
            f"CoCa, a caption of {TOKENS} tokens": count(
                lambda: (coca.text.transformer(embeds, attn_mask=head.attn_mask[:TOKENS, :TOKENS]), head(seen, embeds))
            )
            - count(lambda: keys_and_values(head, seen)),
            "CoCa, keys and values of an image": count(lambda: keys_and_values(head, seen)),
        }
    view, text, seen_once, caption, cross = each.values()
    stages = {
        "image embeddings": (TEACHERS * VIEWS * view, KEPT),
        "text embeddings": (TEACHERS * (1 + CAPTIONS) * text, KEPT),
        "captions": (seen_once + cross + CAPTIONS * caption, 1 / OVER_BARE),
    }
    return {
        "parameters": {
            "ViT-L-14": sum(p.numel() for p in teacher.parameters()),
            "coca_ViT-L-14": sum(p.numel() for p in coca.parameters()),
        },
        "each": each,
        "stages": {
            name: {
                "a_sample": operations,
                "kept": kept,
                "samples_a_second": PEAK * UTILISATION * kept / operations,
                "gpu_hours": SAMPLES * operations / (PEAK * UTILISATION * kept) / 3600,
            }
            for name, (operations, kept) in stages.items()
        },
    }


def count(run: Callable[[], object]) -> float:
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run()
    return float(counter.get_total_flops())


def keys_and_values(head: Any, seen: torch.Tensor) -> None:
    """Project the keys and values of an image in each decoder layer, once for all captions."""
    width = seen.shape[-1]
    for cross in head.cross_attn:
        torch.nn.functional.linear(seen, cross.attn.in_proj_weight[width:])


def show(numbers: Numbers) -> str:
    lines = ["operations, counted on the architectures (no GPU was measured)"]
    lines += [f"  {name:40} {value / 1e6:8.1f} million parameters" for name, value in numbers["parameters"].items()]
    lines += [f"  {name:40} {value / 1e9:8.1f} GFLOP" for name, value in numbers["each"].items()]
    lines += [
        f"{SAMPLES / 1e9:.1f} billion samples, {VIEWS} views, 1 + {CAPTIONS} captions, {TEACHERS} teachers; a GPU of "
        f"{PEAK / 1e12:.0f} TFLOP/s at {UTILISATION:.0%} (assumed)",
        f"  {'stage':18} {'GFLOP a sample':>15} {'kept':>6} {'samples/s a GPU':>16} {'GPU hours':>10} {f'days on {GPUS}':>11}",
    ]
    hours = 0.0
    for name, stage in numbers["stages"].items():
        hours += stage["gpu_hours"]
        lines.append(
            f"  {name:18} {stage['a_sample'] / 1e9:15.1f} {stage['kept']:6.2f} {stage['samples_a_second']:16,.0f} "
            f"{stage['gpu_hours']:10,.0f} {stage['gpu_hours'] / GPUS / 24:11.1f}"
        )
    return "\n".join([*lines, f"  {'together':18} {'':15} {'':6} {'':16} {hours:10,.0f} {hours / GPUS / 24:11.1f}"])

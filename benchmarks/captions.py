"""Compare five captions per image with open_clip's ``generate``, called once per caption, and the bare arithmetic.

The model is coca_ViT-B-32 on a CPU and coca_ViT-L-14 on a GPU, with random weights. The decoder's output is scaled so
that a nucleus has as few tokens as that of a trained captioner. Each caption has 30 tokens, so that all contenders
write the same number.

- ``open_clip``: its ``generate`` as the released generator calls it, once for each caption, with the transformers
  classes that it fails to import. One of the five calls is timed, because the others are the same.
- ``bare``: one image encoding, and all tokens of the written captions through both text transformers at once. The keys
  and values of an image are projected once. Sampling is left out. This is the minimum arithmetic.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import open_clip.coca_model
import torch
import transformers
from open_clip.coca_model import CoCa
from open_clip.factory import get_model_config
from open_clip.tokenizer import SimpleTokenizer

from benchmarks._turns import Numbers, bars, device, in_turns, machine, ratio, table, verdict
from mobileclip2.captioners.coca import coca_of
from mobileclip2.captioners.generate import Draw, generate_tokens, image_tokens
from mobileclip2.config.captioner import GenerationSettings
from mobileclip2.models.build import from_config, initialize_decoder
from mobileclip2.models.device import inference

ON_CPU, ON_GPU = ("coca_ViT-B-32", 32, 2), ("coca_ViT-L-14", 256, 5)
"""Model, images, repeats."""

CAPTIONS, SHARPNESS = 5, 6.0
Tokens = list[list[list[int]]]
"""Token lists by image and caption."""

SETTINGS = GenerationSettings(min_tokens=30, max_tokens=30)
GREEDY = GenerationSettings(temperature=0)
FASTER, BARE = 15.0, 1.5


def measure() -> Numbers:
    place = device()
    name, images, repeats = ON_CPU if place.type == "cpu" else ON_GPU
    model, tokenizer = captioner(get_model_config(name), place)
    numbers = compared(model, tokenizer, images, repeats, place)
    shares = where(writer(model, tokenizer, images, place))
    return {"machine": machine(), "model": name, **numbers, "where": shares}


def captioner(config: Numbers, place: torch.device) -> tuple[CoCa, SimpleTokenizer]:
    """Return a CoCa with random weights whose nucleus has as few tokens as that of a trained one."""
    torch.manual_seed(0)
    model, tokenizer = coca_of(from_config({"model_cfg": config}))
    initialize_decoder(model)
    with torch.no_grad():
        model.text_decoder.text_projection *= SHARPNESS
    return model.to(place), tokenizer


def writer(model: CoCa, tokenizer: SimpleTokenizer, images: int, place: torch.device) -> Callable[[], Tokens]:
    """Return a function that captions the same random images at each call."""
    pixels, keys = random_images(model, images, place), [f"{number:09d}" for number in range(images)]

    def write() -> Tokens:
        with inference(place):
            return generate(model, tokenizer, pixels, keys, range(CAPTIONS), SETTINGS)

    return write


def generate(
    model: CoCa,
    tokenizer: SimpleTokenizer,
    images: torch.Tensor,
    keys: Sequence[str],
    captions: Sequence[int],
    settings: GenerationSettings,
) -> Tokens:
    """Return the tokens of caption ``captions[j]`` of image ``i`` at ``[i][j]``, without start and end.

    ``images`` is ``[len(keys), 3, H, W]`` or cached trunk features.
    """
    draws = [Draw(i, key, caption) for i, key in enumerate(keys) for caption in captions]
    generated = generate_tokens(model, tokenizer, image_tokens(model, images), draws, settings)
    return [generated[i : i + len(captions)] for i in range(0, len(generated), len(captions))]


def random_images(model: CoCa, images: int, place: torch.device) -> torch.Tensor:
    return torch.randn(images, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(0)).to(place)


def compared(
    model: CoCa, tokenizer: SimpleTokenizer, images: int, repeats: int, place: torch.device, until: float = math.inf
) -> Numbers:
    supply_missing_classes()
    pixels, ours = random_images(model, images, place), writer(model, tokenizer, images, place)

    def theirs() -> torch.Tensor:
        written: torch.Tensor = model.generate(pixels, generation_type="top_p", top_p=0.9, seq_len=30, min_seq_len=29)
        assert written.shape[1] == 30
        return written

    written = torch.tensor([[[tokenizer.sot_token_id, *line] for line in lines] for lines in ours()], device=place)

    def bare() -> torch.Tensor:
        with inference(place):
            return decoder_arithmetic(model, image_tokens(model, pixels), written)

    nucleus = nucleus_size(bare())
    times = in_turns({"ours": ours, "open_clip, one call": theirs, "bare": bare}, repeats, until)
    some = 4
    greedy = model.generate(pixels[:some], generation_type="top_k", top_k=1, seq_len=30, min_seq_len=5)
    same = [
        [tokenizer.sot_token_id, *line] == their_line[: their_line.index(tokenizer.eot_token_id)]
        for ((line,), their_line) in zip(
            generate(model, tokenizer, pixels[:some], list("abcd")[:images], [0], GREEDY), greedy.tolist(), strict=True
        )
    ]
    faster = ratio(times, ["open_clip, one call"] * CAPTIONS, "ours")
    return {
        "images": images,
        "nucleus": nucleus,
        "times": times,
        "faster": faster,
        "over_bare": ratio(times, "ours", "bare"),
        "greedy_same": [sum(same), len(same)],
    }


def supply_missing_classes() -> None:
    """Give open_clip the transformers classes that it needs for sampling.

    It imports them in one statement with classes for beam search. If one class is missing, it uses none of them.
    """
    module: Any = open_clip.coca_model
    for name in (
        "LogitsProcessorList",
        "MinLengthLogitsProcessor",
        "RepetitionPenaltyLogitsProcessor",
        "MaxLengthCriteria",
        "StoppingCriteriaList",
    ):
        setattr(module, name, getattr(transformers, name))
    module.GENERATION_TYPES = {"top_p": transformers.TopPLogitsWarper, "top_k": transformers.TopKLogitsWarper}
    module._has_transformers = True


@torch.inference_mode()
def decoder_arithmetic(model: CoCa, images: torch.Tensor, written: torch.Tensor) -> torch.Tensor:
    """Return the logits ``[i, c, L, V]`` after each token of ``written [i, c, L]``, computed in one pass."""
    i, c, length = written.shape
    text, head = model.text, model.text_decoder
    mask = head.attn_mask[:length, :length]
    x = text.token_embedding(written.flatten(0, 1)) + text.positional_embedding[:length]
    x = text.transformer(x, attn_mask=mask)
    for block, cross in zip(head.resblocks, head.cross_attn, strict=True):
        x = block(x, attn_mask=mask)
        # no mask: all captions of an image query its tokens as one long text
        x = cross(x.view(i, c * length, -1), k_x=images, v_x=images).view(i * c, length, -1)
    logits: torch.Tensor = head.ln_final(x) @ head.text_projection
    return logits.view(i, c, length, -1)


def nucleus_size(logits: torch.Tensor) -> float:
    """Return the median number of tokens that hold 0.9 of the probability."""
    some = logits[:4, :, ::5].float().softmax(-1).flatten(0, 2).sort(descending=True).values
    sizes: list[int] = ((some.cumsum(-1) < SETTINGS.top_p).sum(-1) + 1).tolist()
    return statistics.median(sizes)


def where(run: Any) -> dict[str, float]:
    """Return the seconds by kind of operation. On a GPU, these are the seconds of its kernels."""
    from torch._C._autograd import DeviceType
    from torch.profiler import ProfilerActivity, profile

    on_gpu = torch.cuda.is_available()
    with profile(activities=[ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]) as seen:
        run()
    kinds = {
        "matrix products": ("addmm", "::mm", "bmm", "linear", "conv"),
        "attention": ("attention", "softmax"),
        "sampling": ("topk", "cumsum", "logsumexp", "exp", "amax", "sort", "gather", "::lt", "::le", "argmax"),
        "layer norms, activations, additions": ("layer_norm", "gelu", "::add", "::mul"),
    }
    spent = dict.fromkeys([*kinds, "moving data, and the rest"], 0.0)
    for event in seen.key_averages():
        if event.device_type != DeviceType.CPU:
            continue  # the time of a kernel is counted at the operation that launched it
        kind = next((kind for kind, names in kinds.items() if any(name in event.key for name in names)), None)
        seconds = event.self_device_time_total if on_gpu else event.self_cpu_time_total
        spent[kind or "moving data, and the rest"] += seconds / 1e6
    return spent


def show(numbers: Numbers) -> str:
    same, of = numbers["greedy_same"]
    faster, over = numbers["faster"], numbers["over_bare"]
    return "\n".join(
        [
            f"{CAPTIONS} captions of 30 tokens for each of {numbers['images']} images, {numbers['model']}, "
            f"nucleus of {numbers['nucleus']:.0f} tokens; {numbers['machine']}",
            *table(numbers["times"], "ours"),
            f"  {CAPTIONS} calls of open_clip to ours: {faster['wall']:.1f} x (CPU time {faster['cpu']:.1f} x), "
            f"{verdict(faster['wall'], FASTER)}",
            f"  ours to bare: {over['wall']:.2f} x (CPU time {over['cpu']:.2f} x), "
            f"{verdict(over['wall'], BARE, at_least=False)}",
            f"  greedy captions identical to open_clip's token for token: {same} of {of}",
            "where ours spends its time",
            *bars(numbers["where"]),
        ]
    )

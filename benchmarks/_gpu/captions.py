"""Five captions per image, compared with open_clip's ``generate`` and the bare arithmetic, and the cost of launches."""

from __future__ import annotations

import torch
from open_clip.coca_model import CoCa
from open_clip.factory import get_model_config

from benchmarks._gpu.card import seconds_of
from benchmarks._gpu.kernels import profile
from benchmarks._gpu.section import Section
from benchmarks.captions import BARE, CAPTIONS, FASTER, SETTINGS, captioner, compared, random_images, writer
from mobileclip2.captioners.decoder import CachedDecoder
from mobileclip2.captioners.generate import image_tokens
from mobileclip2.models.device import inference
from tests.on_gpu import COCA, greedy_captions


def run(section: Section) -> None:
    config = COCA if section.small else get_model_config("coca_ViT-L-14")
    model, tokenizer = captioner(config, section.device)
    images, repeats = (2, 1) if section.small else (256, 3)

    with section.attempt("captions"):
        found = compared(model, tokenizer, images, repeats, section.device, section.by(0.5))
        times = {name: clocks["wall"] for name, clocks in found["times"].items()}
        for name, seconds in times.items():
            count = images * (1 if name.startswith("open_clip") else CAPTIONS)
            section.value(f"{name}, {images} images", [count / each for each in seconds], "captions/s")
        ours, theirs, bare = times.values()
        section.value(
            f"{CAPTIONS} calls of open_clip / ours",
            [CAPTIONS * other / our for other, our in zip(theirs, ours, strict=True)],
            target=FASTER,
        )
        section.value(
            "ours / bare arithmetic",
            [our / least for our, least in zip(ours, bare, strict=True)],
            target=BARE,
            at_least=False,
        )
        section.value("tokens of a nucleus", found["nucleus"])
    with section.attempt("greedy captions"):
        same, of = greedy_captions(model, tokenizer, random_images(model, min(images, 8), section.device))
        section.value(f"greedy captions in fp32 identical to open_clip's, of {of}", same, target=of)

    with section.attempt("profile"):
        section.lines(
            "captions, by kernel",
            profile(writer(model, tokenizer, images, section.device), section.device).lines(f"{images} images"),
        )
    launches(section, model, images)
    for batch in (1, 2) if section.small else (64, 128, 512):
        with section.attempt(f"ours, {batch} images"):
            section.require(2)
            seconds = seconds_of(writer(model, tokenizer, batch, section.device), 1 if section.small else 3, warm=1)
            section.value(f"ours, {batch} images", CAPTIONS * batch / seconds, "captions/s")


@torch.inference_mode()
def launches(section: Section, model: CoCa, images: int) -> None:
    """Time the decoder's steps, launched one by one and replayed as one CUDA graph, to show the gain of graphs."""
    device, length, rows = section.device, SETTINGS.max_tokens, CAPTIONS * images
    # one autocast for all steps, because it caches the cast weights and a graph needs them at the same address
    with inference(device):
        tokens = image_tokens(model, random_images(model, images, device))
        image_of = [row // CAPTIONS for row in range(rows)]
        token = torch.zeros(rows, dtype=torch.long, device=device)
        decoder = CachedDecoder(model, tokens, image_of, length)

        def steps() -> None:
            decoder.position = 0
            for _ in range(length - 1):
                decoder.step(token)

        with section.attempt("steps alone"):
            eager = seconds_of(steps, 1 if section.small else 5)
            section.value(f"steps alone, {images} images", 1e3 * eager / (length - 1), "ms a step")
        if not section.on_gpu:
            section.found("steps alone, CUDA graph", "needs a GPU")
            return
        with section.attempt("steps alone, CUDA graph"):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                steps()
            replayed = seconds_of(graph.replay, 5)
            section.value(f"steps alone, CUDA graph, {images} images", 1e3 * replayed / (length - 1), "ms a step")
            section.value("steps one by one / as a graph", eager / replayed)

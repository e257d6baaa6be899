"""Write a trained student as a folder that runs without this project, after comparing it with what was trained.

::

    README.md             the model card, with a snippet that runs
    image.*, text.*       the towers, fused; for open_clip its two files
    preprocessing.json    how an image becomes pixels and a text tokens
    example.py            reads all of it (onnx, torchscript, coreml) with pixels.py, tokens.py and vocabulary.txt.gz
    lineage.json          what the student was made from, with hashes
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from torch import Tensor, nn

from mobileclip2.data.image import decode
from mobileclip2.errors import UserError
from mobileclip2.export import as_coreml, as_onnx, as_open_clip, as_torchscript
from mobileclip2.export.model import ImageTower, Model, TextTower, Tower, conventions, trained, with_numpy
from mobileclip2.export.parity import Inputs, Parity, demand, parity
from mobileclip2.export.shipped.pixels import SUPPORT
from mobileclip2.export.shipped.tokens import Tokenizer
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.reparameterize import reparameterize

Format = Literal["onnx", "torchscript", "openclip", "safetensors", "coreml"]
FORMATS: tuple[Format, ...] = get_args(Format)
OF_OPEN_CLIP = ("openclip", "safetensors")
"""read by open_clip; the others are read without, so that preprocessing and tokenizer go along"""
PREPROCESSING, VOCABULARY, EXAMPLE = "preprocessing.json", "vocabulary.txt.gz", "example.py"
NEEDS = {"onnx": "onnxruntime", "torchscript": "torch", "coreml": "coremltools"}
"""The package beside numpy that reads each format that is read without open_clip."""


def write(
    image_text: ImageText, found: Inputs, folder: Path, kind: Format, *, int8: bool = False, batch: int = 64
) -> list[Parity]:
    """Write everything but card and lineage into ``folder``, and return how near it is to ``image_text``.

    Raises:
        UserError: the format cannot hold the model, or a figure of fp32 is too low.
    """
    before = trained(image_text)
    fused = reparameterize(image_text.model)
    settings = conventions(image_text.preprocess)
    if kind not in OF_OPEN_CLIP:
        settings["context"] = _clip_context(image_text)
        _ship(image_text, folder, kind)
    _write_json(folder / PREPROCESSING, {**settings, "channels": "RGB", "resize": "shorter side", "crop": "center"})
    after = _write_towers(image_text, fused, found, folder, kind)
    measured = parity(before, after, found, "handed to Core ML" if kind == "coreml" else "fp32", batch)
    demand(measured)
    if int8:
        as_onnx.quantize(folder, _batches(image_text, found.calibration, 16))
        measured += parity(before, _with_numpy(image_text, folder, as_onnx.read(folder)), found, "int8", batch)
    return measured


def _write_towers(image_text: ImageText, fused: nn.Module, found: Inputs, folder: Path, kind: Format) -> Model:
    """Write both towers, and read them back as far as this machine can."""
    if kind == "openclip":
        as_open_clip.write_folder(image_text, folder)
        return as_open_clip.read_folder(folder)
    if kind == "safetensors":
        as_open_clip.write_towers(image_text, fused, folder)
        return as_open_clip.read_towers(folder)
    towers = ImageTower(fused), TextTower(fused)
    examples = next(_batches(image_text, [found.images[0]] * 2, 2)), image_text.tokenize([found.texts[0]] * 2)
    if kind == "coreml":
        handed = as_coreml.programs(*towers, *examples)
        as_coreml.write(handed, folder)
        return _with_numpy(image_text, folder, as_coreml.towers(handed))
    form = as_onnx if kind == "onnx" else as_torchscript
    form.write(*towers, *examples, folder)
    return _with_numpy(image_text, folder, form.read(folder))


def _with_numpy(image_text: ImageText, folder: Path, towers: tuple[Tower, Tower]) -> Model:
    tokenizer = Tokenizer(folder / VOCABULARY, _clip_context(image_text))
    return with_numpy(image_text.preprocess, tokenizer, *towers)


def _ship(image_text: ImageText, folder: Path, kind: Format) -> None:
    interpolation, resize = image_text.preprocess.interpolation, image_text.preprocess.resize
    if interpolation not in SUPPORT or resize != "shortest":
        raise UserError(
            f"export: images are resized by '{interpolation}' and '{resize}', which an export as {kind} does not know; "
            f"it knows {', '.join(SUPPORT)}, and 'shortest'. Export it as openclip"
        )
    for name in ("pixels.py", "tokens.py"):
        shutil.copyfile(Path(__file__).parent / "shipped" / name, folder / name)
    shutil.copyfile(default_bpe(), folder / VOCABULARY)
    (folder / EXAMPLE).write_text(example(kind), encoding="utf-8")


def example(kind: str) -> str:
    """Render the program that reads an export without open_clip."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template("example.py.j2").render(kind=kind, needs=NEEDS[kind])


def _clip_context(image_text: ImageText) -> int:
    """Tokens that the text tower takes.

    Raises:
        UserError: its tokenizer is not CLIP's.
    """
    tokenizer = image_text.tokenize
    plain = SimpleTokenizer()
    if not isinstance(tokenizer, SimpleTokenizer) or (
        tokenizer.clean_fn,
        tokenizer.reduction_fn,
        tokenizer.encoder,
    ) != (
        plain.clean_fn,
        plain.reduction_fn,
        plain.encoder,
    ):
        raise UserError(
            f"export: the model reads texts by {type(tokenizer).__name__}, and only CLIP's byte-pair encoding "
            "is shipped; export it as openclip or safetensors"
        )
    context_length: int | None = tokenizer.context_length
    assert context_length is not None
    return context_length


def _batches(image_text: ImageText, images: Sequence[bytes], size: int) -> Iterator[Tensor]:
    pixels = (image_text.preprocess.whole(decode(image)) for image in images)
    while some := list(islice(pixels, size)):
        yield torch.stack(some)


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1, sort_keys=True) + "\n")

"""Write a trained student to a folder that runs without this project, and compare it with the trained model.

::

    README.md             model card with an example
    image.*, text.*       fused towers, or the two files of open_clip
    preprocessing.json    settings of the preprocessing and the tokenizer
    example.py            example for onnx, torchscript and coreml, with pixels.py, tokens.py and vocabulary.txt.gz
    lineage.json          inputs of the student, with hashes
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
from jinja2 import Environment, StrictUndefined
from open_clip.tokenizer import SimpleTokenizer, default_bpe
from torch import Tensor, nn

from mobileclip2.data.image import decode
from mobileclip2.errors import UserError
from mobileclip2.export import as_coreml, as_onnx, as_open_clip, as_torchscript
from mobileclip2.export.model import ExportModel, ImageTower, TextTower, Tower, trained, with_numpy
from mobileclip2.export.parity import Inputs, Parity, demand, parity
from mobileclip2.export.shipped.pixels import SUPPORT
from mobileclip2.export.shipped.tokens import Tokenizer
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.reparameterize import reparameterize

Format = Literal["onnx", "torchscript", "openclip", "safetensors", "coreml"]
OF_OPEN_CLIP = ("openclip", "safetensors")
"""Formats that open_clip reads. Exports in other formats contain preprocessing and tokenizer."""
PREPROCESSING, VOCABULARY, EXAMPLE = "preprocessing.json", "vocabulary.txt.gz", "example.py"
NEEDS = {"onnx": "onnxruntime", "torchscript": "torch", "coreml": "coremltools"}
"""Package that reads each format without open_clip. All formats also need numpy."""


def write(
    image_text: ImageText, data: Inputs, folder: Path, kind: Format, *, int8: bool = False, batch: int = 64
) -> list[Parity]:
    """Write everything except the card and the lineage into ``folder``, and return the parity with ``image_text``.

    Raises:
        UserError: the format does not support the model, or the parity in fp32 is too low.
    """
    before = trained(image_text)
    fused = reparameterize(image_text.model)
    settings = image_text.preprocess.conventions()
    if kind not in OF_OPEN_CLIP:
        settings["context"] = _clip_context(image_text)
        _write_runtime(image_text, folder, kind)
    settings |= {"channels": "RGB", "resize": "shorter side", "crop": "center"}
    (folder / PREPROCESSING).write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n")
    after = _write_towers(image_text, fused, data, folder, kind)
    measured = parity(before, after, data, "handed to Core ML" if kind == "coreml" else "fp32", batch)
    demand(measured)
    if int8:
        as_onnx.quantize(folder, _batches(image_text, data.calibration, 16))
        measured += parity(before, _with_numpy(image_text, folder, as_onnx.read(folder)), data, "int8", batch)
    return measured


def _write_towers(image_text: ImageText, fused: nn.Module, data: Inputs, folder: Path, kind: Format) -> ExportModel:
    """Write both towers and load them back. Core ML packages only load on Apple's systems."""
    if kind == "openclip":
        as_open_clip.write_folder(image_text, folder)
        return as_open_clip.read_folder(folder)
    if kind == "safetensors":
        as_open_clip.write_towers(image_text, fused, folder)
        return as_open_clip.read_towers(folder)
    towers = ImageTower(fused), TextTower(fused)
    examples = next(_batches(image_text, [data.images[0]] * 2, 2)), image_text.tokenize([data.texts[0]] * 2)
    if kind == "coreml":
        programs = as_coreml.programs(*towers, *examples)
        as_coreml.write(programs, folder)
        return _with_numpy(image_text, folder, as_coreml.towers(programs))
    exporter = as_onnx if kind == "onnx" else as_torchscript
    exporter.write(*towers, *examples, folder)
    return _with_numpy(image_text, folder, exporter.read(folder))


def _with_numpy(image_text: ImageText, folder: Path, towers: tuple[Tower, Tower]) -> ExportModel:
    tokenizer = Tokenizer(folder / VOCABULARY, _clip_context(image_text))
    return with_numpy(image_text.preprocess, tokenizer, *towers)


def _write_runtime(image_text: ImageText, folder: Path, kind: Format) -> None:
    interpolation, resize = image_text.preprocess.interpolation, image_text.preprocess.resize
    if interpolation not in SUPPORT or resize != "shortest":
        raise UserError(
            f"export: {kind} does not support the interpolation '{interpolation}' with the resize mode '{resize}'. It supports "
            f"{', '.join(SUPPORT)} with 'shortest'. Export the student as openclip"
        )
    for name in ("pixels.py", "tokens.py"):
        shutil.copyfile(Path(__file__).parent / "shipped" / name, folder / name)
    shutil.copyfile(default_bpe(), folder / VOCABULARY)
    (folder / EXAMPLE).write_text(example(kind), encoding="utf-8")


def example(kind: str) -> str:
    """Render ``example.py``, which reads an export without open_clip."""
    return render(Path(__file__).with_name("example.py.j2"), kind=kind, needs=NEEDS[kind])


def render(template: Path, **values: object) -> str:
    """Render a template of text that is not HTML. A missing value is an error."""
    text = template.read_text(encoding="utf-8")
    options = Environment(undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True)
    return options.from_string(text).render(values)


def _clip_context(image_text: ImageText) -> int:
    """Return the context length of the text tower.

    Raises:
        UserError: the tokenizer is not CLIP's.
    """
    tokenizer, plain = image_text.tokenize, SimpleTokenizer()
    parts = ("clean_fn", "reduction_fn", "encoder")
    if not isinstance(tokenizer, SimpleTokenizer) or any(getattr(tokenizer, p) != getattr(plain, p) for p in parts):
        raise UserError(
            f"export: the tokenizer of the model is {type(tokenizer).__name__}, but exports support only CLIP's byte-pair "
            "encoding; export the student as openclip or safetensors"
        )
    context_length: int | None = tokenizer.context_length
    assert context_length is not None
    return context_length


def _batches(image_text: ImageText, images: Sequence[bytes], size: int) -> Iterator[Tensor]:
    pixels = (image_text.preprocess.whole(decode(image)) for image in images)
    while batch := list(islice(pixels, size)):
        yield torch.stack(batch)

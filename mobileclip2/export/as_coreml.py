"""Both towers as Core ML programs for one image or text at a time, in half precision, which is Core ML's own choice.

coremltools converts on Linux and runs only on Apple's systems: what is compared here is the program it is handed.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mobileclip2.export.model import Tower
from mobileclip2.export.quiet import quiet
from mobileclip2.extras import needs

IMAGE, TEXT = "image.mlpackage", "text.mlpackage"
FEATURES = "features"
Programs = tuple[ExportedProgram, ExportedProgram]


def programs(image: nn.Module, text: nn.Module, pixels: Tensor, tokens: Tensor) -> Programs:
    """Trace the programs that are converted. Of the examples the first one is used."""
    with quiet():
        image_program, text_program = (
            torch.export.export(tower, (example[:1],)).run_decompositions({})
            for tower, example in ((image, pixels), (text, tokens))
        )
    return image_program, text_program


def write(handed: Programs, folder: Path) -> None:
    """Two packages, for iOS 16 and macOS 13 on."""
    # its progress bars cannot be switched off
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        with needs("export-apple"):
            import coremltools  # takes seconds, and looks for an Apple system

        for program, name in zip(handed, (IMAGE, TEXT), strict=True):
            converted = coremltools.convert(
                program,
                outputs=[coremltools.TensorType(name=FEATURES)],
                convert_to="mlprogram",
                minimum_deployment_target=coremltools.target.iOS16,
            )
            converted.save(str(folder / name))


def towers(handed: Programs) -> tuple[Tower, Tower]:
    """Return the programs as torch towers that accept any number of images or texts."""
    image, text = (_one_by_one(program.module()) for program in handed)
    return image, text


def _one_by_one(tower: nn.Module) -> Tower:
    return lambda batch: torch.cat([tower(one) for one in batch.split(1)])

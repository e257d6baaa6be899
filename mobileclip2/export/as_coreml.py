"""Export both towers as Core ML programs with batch size 1 in half precision, the default of Core ML.

coremltools converts on Linux but runs only on Apple's systems. Parity is therefore measured on the exported torch programs
before their conversion.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from mobileclip2.export.model import Tower
from mobileclip2.extras import needs
from mobileclip2.models.quiet import quiet

IMAGE, TEXT = "image.mlpackage", "text.mlpackage"
Programs = tuple[ExportedProgram, ExportedProgram]


def programs(image: nn.Module, text: nn.Module, pixels: Tensor, tokens: Tensor) -> Programs:
    """Trace both towers with the first example of ``pixels`` and ``tokens``."""
    with quiet():
        image_program, text_program = (
            torch.export.export(tower, (example[:1],)).run_decompositions({})
            for tower, example in ((image, pixels), (text, tokens))
        )
    return image_program, text_program


def write(traced: Programs, folder: Path) -> None:
    """Convert the programs to two packages for iOS 16, macOS 13 and later."""
    # The progress bars of coremltools cannot be switched off.
    with quiet(), contextlib.redirect_stderr(io.StringIO()):
        with needs("export-apple"):
            import coremltools  # the import takes seconds

        for program, name in zip(traced, (IMAGE, TEXT), strict=True):
            converted = coremltools.convert(
                program,
                outputs=[coremltools.TensorType(name="features")],
                convert_to="mlprogram",
                minimum_deployment_target=coremltools.target.iOS16,
            )
            converted.save(str(folder / name))


def towers(traced: Programs) -> tuple[Tower, Tower]:
    """Return the programs as torch towers that accept batches."""
    image, text = (_one_by_one(program.module()) for program in traced)
    return image, text


def _one_by_one(tower: nn.Module) -> Tower:
    return lambda batch: torch.cat([tower(one) for one in batch.split(1)])

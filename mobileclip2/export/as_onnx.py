"""Export both towers as ONNX with a dynamic batch size, and quantize them to int8."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mobileclip2.errors import UserError
from mobileclip2.export.model import Tower
from mobileclip2.extras import needs
from mobileclip2.models.quiet import quiet
from mobileclip2.store.storage import temporary_files

with needs("export"):
    import onnx
    import onnxruntime
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_dynamic,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

IMAGE, TEXT = "image.onnx", "text.onnx"
PIXELS, TOKENS, FEATURES = "pixels", "tokens", "features"
OPSET = 20
MAX_BYTES = 2**31
"""Largest file of protobuf."""


def write(image: nn.Module, text: nn.Module, pixels: Tensor, tokens: Tensor, folder: Path) -> None:
    """Write both towers. ``pixels`` and ``tokens`` are example inputs with batch size 2 or more.

    Raises:
        UserError: a tower does not fit into one file.
    """
    _write_tower(image, pixels, PIXELS, folder / IMAGE)
    _write_tower(text, tokens, TOKENS, folder / TEXT)


def _write_tower(tower: nn.Module, example: Tensor, name: str, path: Path) -> None:
    size = sum(parameter.nbytes for parameter in tower.parameters())
    if size >= MAX_BYTES:
        raise UserError(
            f"{path.name}: {size:,} bytes do not fit into one ONNX file; export it as openclip or safetensors"
        )
    with quiet():
        program = torch.onnx.export(
            tower,
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=[name],
            output_names=[FEATURES],
            dynamic_shapes={name: {0: torch.export.Dim("batch")}},
            external_data=False,
            verbose=False,
        )
    assert program is not None
    _save(program.model_proto, path)


def _save(model: onnx.ModelProto, path: Path) -> None:
    """Save without the exporter's notes, which contain paths of this machine and make the bytes differ."""
    graphs = (model.graph, *model.functions)
    nodes = (node for graph in graphs for node in graph.node)
    values = (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer)
    for part in (model, *graphs, *nodes, *values):
        part.doc_string = ""
        del part.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))


def quantize(folder: Path, calibration: Iterable[Tensor]) -> None:
    """Quantize both towers to int8.

    The image tower is quantized statically, with ranges from ``calibration``, batches of pixels. The text tower is
    quantized dynamically.
    """
    with temporary_files(), tempfile.TemporaryDirectory() as scratch, quiet():
        with_shapes = Path(scratch) / "shapes.onnx"
        quant_pre_process(folder / IMAGE, with_shapes, skip_symbolic_shape=True)
        quantize_static(
            with_shapes,
            folder / IMAGE,
            _CalibrationBatches(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )
        quantize_dynamic(folder / TEXT, folder / TEXT, per_channel=True, weight_type=QuantType.QInt8)
    for name in (IMAGE, TEXT):
        _save(onnx.load(folder / name), folder / name)


class _CalibrationBatches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, batches: Iterable[Tensor]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {PIXELS: batch.numpy()}


def read(folder: Path) -> tuple[Tower, Tower]:
    """Load both towers into onnxruntime on the CPU."""
    return _read_tower(folder / IMAGE, PIXELS), _read_tower(folder / TEXT, TOKENS)


def _read_tower(path: Path, name: str) -> Tower:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run([FEATURES], {name: batch.numpy()})[0])

"""Both towers as ONNX with a free batch size, and the same in int8."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mobileclip2.errors import UserError
from mobileclip2.export.model import Tower
from mobileclip2.export.quiet import quiet
from mobileclip2.extras import needs
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
MOST_BYTES = 2**31
"""protobuf's limit for one file"""


def write(image: nn.Module, text: nn.Module, pixels: Tensor, tokens: Tensor, folder: Path) -> None:
    """``pixels`` and ``tokens`` are examples, two or more of each, of what the towers take.

    Raises:
        UserError: a tower does not fit into one file.
    """
    _write_tower(image, pixels, PIXELS, folder / IMAGE)
    _write_tower(text, tokens, TOKENS, folder / TEXT)


def _write_tower(tower: nn.Module, example: Tensor, name: str, path: Path) -> None:
    size = sum(parameter.nbytes for parameter in tower.parameters())
    if size >= MOST_BYTES:
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
    """Without the exporter's notes, which name files of this machine; then the same model gives the same bytes."""
    model.doc_string = ""
    del model.metadata_props[:]
    for graph in (model.graph, *model.functions):
        graph.doc_string = ""
        del graph.metadata_props[:]
        for node in graph.node:
            node.doc_string = ""
            del node.metadata_props[:]
    for value in (*model.graph.value_info, *model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]
    path.write_bytes(model.SerializeToString(deterministic=True))


def quantize(folder: Path, calibration: Iterable[Tensor]) -> None:
    """Quantize both towers to int8.

    The ranges of the image tower are measured on ``calibration``, batches of pixels. The text tower is quantized
    dynamically.
    """
    with temporary_files(), tempfile.TemporaryDirectory() as scratch, quiet():
        known = Path(scratch) / "shapes.onnx"
        quant_pre_process(folder / IMAGE, known, skip_symbolic_shape=True)
        quantize_static(
            known,
            folder / IMAGE,
            _Batches(calibration),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
        )
        quantize_dynamic(folder / TEXT, folder / TEXT, per_channel=True, weight_type=QuantType.QInt8)
    for name in (IMAGE, TEXT):
        _save(onnx.load(folder / name), folder / name)


class _Batches(CalibrationDataReader):  # type: ignore[misc]  # onnxruntime has no types
    def __init__(self, batches: Iterable[Tensor]) -> None:
        self.batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.batches, None)
        return None if batch is None else {PIXELS: batch.numpy()}


def read(folder: Path) -> tuple[Tower, Tower]:
    """Both towers in onnxruntime on the CPU."""
    return _tower(folder / IMAGE, PIXELS), _tower(folder / TEXT, TOKENS)


def _tower(path: Path, name: str) -> Tower:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return lambda batch: torch.from_numpy(session.run([FEATURES], {name: batch.numpy()})[0])

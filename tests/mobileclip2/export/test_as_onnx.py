from __future__ import annotations

from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from mobileclip2.errors import UserError
from mobileclip2.export import as_onnx

pytestmark = pytest.mark.slow  # the exporter of torch takes seconds


class Image(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 2)

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.layer(pixels).flatten(1)


class Text(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Embedding(16, 4)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.layer(tokens).sum(1)


PIXELS, TOKENS = torch.rand(2, 3, 2, 2), torch.arange(6).view(2, 3)


@pytest.fixture(scope="module")
def towers() -> tuple[Image, Text]:
    torch.manual_seed(0)
    return Image().eval(), Text().eval()


@pytest.fixture(scope="module")
def folder(towers: tuple[Image, Text], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("onnx")
    as_onnx.write(*towers, PIXELS, TOKENS, folder)
    return folder


@pytest.mark.parametrize("count", [1, 2, 5])
def test_batches_of_any_size_give_the_features_of_torch(towers: tuple[Image, Text], folder: Path, count: int) -> None:
    image, text = as_onnx.read(folder)
    pixels, tokens = torch.rand(count, 3, 2, 2), torch.randint(0, 16, (count, 3))
    torch.testing.assert_close(image(pixels), towers[0](pixels).detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(text(tokens), towers[1](tokens).detach(), atol=1e-5, rtol=1e-4)


def test_files_use_the_names_of_the_card_without_exporter_metadata(folder: Path) -> None:
    for name, given in ((as_onnx.IMAGE, "pixels"), (as_onnx.TEXT, "tokens")):
        model = onnx.load(folder / name)
        assert [each.name for each in model.graph.input] == [given]
        assert [each.name for each in model.graph.output] == ["features"]
        assert model.opset_import[0].version == as_onnx.OPSET
        assert not any(node.doc_string or node.metadata_props for node in model.graph.node)
        assert __file__.encode() not in (folder / name).read_bytes()


def test_a_tower_that_does_not_fit_into_one_file_is_rejected(
    towers: tuple[Image, Text], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(as_onnx, "MAX_BYTES", 100)
    with pytest.raises(UserError, match=r"image\.onnx: 208 bytes do not fit into one ONNX file"):
        as_onnx.write(*towers, PIXELS, TOKENS, tmp_path)
    assert not list(tmp_path.iterdir())

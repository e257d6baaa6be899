"""Test small exports. ``stages/test_export.py`` tests complete exports with their cards, in separate processes."""

from __future__ import annotations

import ast
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mobileclip2.data.preprocess import Preprocess
from mobileclip2.errors import UserError
from mobileclip2.export.parity import Inputs
from mobileclip2.export.write import NEEDS, example, write
from mobileclip2.models.image_text import ImageText


def test_an_export_contains_its_preprocessing_and_an_example(
    image_text: ImageText, found: Inputs, tmp_path: Path
) -> None:
    measured = write(image_text, found, tmp_path, "torchscript")
    assert [(each.tower, each.count) for each in measured] == [("image", 3), ("text", 3)]
    assert {path.name for path in tmp_path.iterdir()} == {
        "image.pt",
        "text.pt",
        "preprocessing.json",
        "vocabulary.txt.gz",
        "example.py",
        "pixels.py",
        "tokens.py",
    }
    settings = json.loads((tmp_path / "preprocessing.json").read_text())
    assert (settings["size"], settings["context"], settings["channels"]) == (32, 12, "RGB")


def test_an_export_for_open_clip_contains_no_tokenizer(image_text: ImageText, found: Inputs, tmp_path: Path) -> None:
    write(image_text, found, tmp_path, "openclip")
    assert not {"example.py", "vocabulary.txt.gz"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("kind", NEEDS)
def test_an_example_is_valid_python_and_imports_the_packages_of_the_card(kind: str) -> None:
    tree = ast.parse(example(kind))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert {NEEDS[kind], "numpy"} <= {name.partition(".")[0] for name in imported}
    assert "mobileclip2" not in example(kind)


def test_other_preprocessing_and_tokenizers_need_open_clip(
    image_text: ImageText, found: Inputs, tmp_path: Path
) -> None:
    nearest = replace(image_text, preprocess=Preprocess(32, interpolation="nearest"))
    with pytest.raises(UserError, match="does not support the interpolation 'nearest'"):
        write(nearest, found, tmp_path, "onnx")
    other = replace(image_text, tokenize=lambda texts: torch.zeros(len(texts), 12, dtype=torch.long))
    with pytest.raises(UserError, match="the tokenizer of the model is function"):
        write(other, found, tmp_path, "torchscript")

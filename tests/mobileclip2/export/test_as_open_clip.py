"""Exports for open_clip are complete for every family of models."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from mobileclip2.config.model import Model
from mobileclip2.export import as_open_clip
from mobileclip2.export.as_open_clip import read_folder, read_towers, write_folder, write_towers
from mobileclip2.models import fastvit
from mobileclip2.models.build import build, from_config, save
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.reparameterize import reparameterize
from tests.mobileclip2.models.small_towers import write
from tests.mobileclip2.models.test_build import TINY

TEXTS = ["a cat", "the Red dog, on the hill"]
FASTVIT = {"timm_model_name": "fastvit_nano", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}


@pytest.mark.parametrize("family", ["MobileCLIP2", "SigLIP", "CLIPA", "RoBERTa", "mT5"])
@pytest.mark.parametrize("fused", [False, True])
def test_plain_open_clip_loads_an_export_without_the_original_files(tmp_path, family, fused):
    config = write(family, tmp_path / "origin", str(tmp_path / "origin"))
    image_text = build(Model(config=config))
    shutil.rmtree(tmp_path / "origin")
    folder = tmp_path / "export"
    if fused:
        folder.mkdir()
        write_towers(image_text, reparameterize(image_text.model), folder)
    else:
        write_folder(image_text, folder)
    model = read_towers(folder) if fused else read_folder(folder)
    images = torch.rand(2, 3, image_text.preprocess.size, image_text.preprocess.size)
    with torch.inference_mode():
        torch.testing.assert_close(
            F.normalize(model.image(images), dim=-1), image_text.embed_images(images), rtol=1e-4, atol=1e-4
        )
        torch.testing.assert_close(
            F.normalize(model.text(model.tokens(TEXTS)), dim=-1), image_text.embed_texts(TEXTS), rtol=1e-4, atol=1e-4
        )


def test_fused_towers_load_from_their_two_files(tmp_path: Path, pixels: torch.Tensor) -> None:
    image_text = from_config({"model_cfg": {**TINY, "vision_cfg": FASTVIT}})
    fused = reparameterize(image_text.model)
    as_open_clip.write_towers(image_text, fused, tmp_path)
    model = as_open_clip.read_towers(tmp_path)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(fused.encode_image(pixels), dim=-1)
        torch.testing.assert_close(model.image(pixels), expected, atol=1e-5, rtol=1e-4)
    assert (tmp_path / "fastvit.py").read_text() == Path(fastvit.__file__).read_text()


def test_towers_of_timm_are_exported_without_a_module(image_text: ImageText) -> None:
    assert as_open_clip.architecture(image_text) is None
    config = {"model_cfg": {"vision_cfg": {"timm_model_name": "efficientnet_lite0"}}}
    timm = ImageText(image_text.model, image_text.tokenize, image_text.preprocess, 8, config)
    assert as_open_clip.architecture(timm) is None


PAGE = (Path(__file__).parents[3] / "docs" / "students.md").read_text()
LOAD, REGISTER = re.findall(r"```python\n(.*?)```", PAGE.partition("## Load a student in open_clip")[2], re.DOTALL)
"""Examples of the page: ``LOAD`` loads the folder ``mine``, and ``REGISTER`` first registers the tower."""

ABSENT = """
import importlib.abc, sys

class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"mobileclip2", "pipelines", "assets"}:
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)

sys.meta_path.insert(0, Absent())
"""

EMBED = """
import sys, torch
from safetensors.torch import load_file, save_file

pixels = load_file("pixels.safetensors")["pixels"]
with torch.inference_mode():
    features = {
        "image": model.eval().encode_image(pixels, normalize=True),
        "text": model.encode_text(tokenize(sys.argv[1:]), normalize=True),
    }
save_file(features, "features.safetensors")
"""


TOWERS = {
    "timm": {"timm_model_name": "test_vit", "timm_proj": "linear", "image_size": 160},
    "builtin": TINY["vision_cfg"],
    "fastvit": FASTVIT,
}
"""``vision_cfg`` of each tower. One process loads all of them, so the tower that it registers comes last."""


def test_students_load_without_this_package(tmp_path):
    code, expected = f"import os\n{ABSENT}", {}
    for name, vision in TOWERS.items():
        image_text = from_config({"model_cfg": {**TINY, "vision_cfg": vision}})
        folder = tmp_path / name
        if name == "fastvit":
            write_folder(image_text, folder / "mine")
        else:
            save(image_text, folder / "mine")  # the stage stores a student in this way, without an export
        pixels = torch.rand(2, 3, image_text.preprocess.size, image_text.preprocess.size)
        save_file({"pixels": pixels}, folder / "pixels.safetensors")
        expected[name] = {"image": image_text.embed_images(pixels), "text": image_text.embed_texts(TEXTS)}
        code += f"os.chdir({str(folder)!r})\n{REGISTER if name == 'fastvit' else ''}{LOAD}{EMBED}"
    done = subprocess.run([sys.executable, "-c", code, *TEXTS], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for name, features in expected.items():
        torch.testing.assert_close(load_file(tmp_path / name / "features.safetensors"), features, rtol=1e-4, atol=1e-4)

"""Exports for open_clip are complete for every family of models."""

from __future__ import annotations

import shutil

import pytest
import torch
from torch.nn import functional as F

from mobileclip2.config.model import Model
from mobileclip2.export.as_open_clip import read_folder, read_towers, write_folder, write_towers
from mobileclip2.models.build import build
from mobileclip2.models.reparameterize import reparameterize
from tests.mobileclip2.models.small_towers import write

TEXTS = ["a cat", "the Red dog, on the hill"]


@pytest.mark.parametrize("family", ["MobileCLIP2", "SigLIP", "CLIPA", "RoBERTa", "mT5"])
@pytest.mark.parametrize("fused", [False, True])
def test_plain_open_clip_reads_an_export_without_its_origin(tmp_path, family, fused):
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

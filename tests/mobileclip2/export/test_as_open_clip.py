from __future__ import annotations

from pathlib import Path

import torch

from mobileclip2.export import as_open_clip
from mobileclip2.models import fastvit
from mobileclip2.models.build import from_config
from mobileclip2.models.image_text import ImageText
from mobileclip2.models.reparameterize import reparameterize
from tests.mobileclip2.models.test_build import TINY

TEXTS = ["a cat", "two dogs", ""]
FASTVIT = {"timm_model_name": "fastvit_nano", "timm_pool": "avg", "timm_proj": "linear", "image_size": 32}


def test_plain_open_clip_reads_the_folder(image_text: ImageText, pixels: torch.Tensor, tmp_path: Path) -> None:
    as_open_clip.write_folder(image_text, tmp_path)
    model = as_open_clip.read_folder(tmp_path)
    with torch.inference_mode():
        torch.testing.assert_close(model.image(pixels), image_text.embed_images(pixels), atol=1e-5, rtol=1e-4)
        found = model.text(model.tokens(TEXTS))
    torch.testing.assert_close(found, image_text.embed_texts(TEXTS), atol=1e-5, rtol=1e-4)


def test_fused_towers_come_back_from_their_two_files(tmp_path: Path, pixels: torch.Tensor) -> None:
    image_text = from_config({"model_cfg": {**TINY, "vision_cfg": FASTVIT}})
    fused = reparameterize(image_text.model)
    as_open_clip.write_towers(image_text, fused, tmp_path)
    model = as_open_clip.read_towers(tmp_path)
    with torch.inference_mode():
        expected = torch.nn.functional.normalize(fused.encode_image(pixels), dim=-1)
        torch.testing.assert_close(model.image(pixels), expected, atol=1e-5, rtol=1e-4)
    assert (tmp_path / "fastvit.py").read_text() == Path(fastvit.__file__).read_text()


def test_only_towers_that_timm_lacks_come_with_their_module(image_text: ImageText) -> None:
    assert as_open_clip.architecture(image_text) is None
    config = {"model_cfg": {"vision_cfg": {"timm_model_name": "efficientnet_lite0"}}}
    timm = ImageText(image_text.model, image_text.tokenize, image_text.preprocess, 8, config)
    assert as_open_clip.architecture(timm) is None

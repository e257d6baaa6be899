from __future__ import annotations

import torch
from torch import Tensor, nn

from mobileclip2.data.preprocess import Preprocess
from mobileclip2.models.build import from_config
from mobileclip2.models.image_text import ImageText
from tests.mobileclip2.models.test_build import TINY


class Doubled(nn.Module):
    """Returns features of length 2 in half precision."""

    def encode_image(self, images: Tensor) -> Tensor:
        return 2 * nn.functional.normalize(images.flatten(1)[:, :4], dim=-1).bfloat16()


def test_image_features_are_normalized_fp32_without_gradients() -> None:
    model = ImageText(Doubled(), lambda texts: torch.zeros(len(texts), 1), Preprocess(2), 4)
    found = model.embed_images(torch.rand(3, 3, 2, 2, requires_grad=True))
    assert found.dtype == torch.float32 and not found.requires_grad
    torch.testing.assert_close(found.norm(dim=1), torch.ones(3))


def test_text_features_equal_those_of_open_clip() -> None:
    model = from_config({"model_cfg": TINY})
    texts = ["a cat", "a very long dog with many words in its name", ""]
    found = model.embed_texts(texts)
    with torch.no_grad():
        expected = model.model.encode_text(model.tokenize(texts), normalize=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert found.shape == (3, 8)

from __future__ import annotations

import torch
from open_clip.tokenizer import default_bpe
from PIL import Image

from mobileclip2.export.model import ImageTower, TextTower, trained, with_numpy
from mobileclip2.export.shipped.tokens import Tokenizer
from mobileclip2.models.image_text import ImageText
from tests.tiny import draw


def test_towers_return_normalized_features(
    towers: tuple[ImageTower, TextTower], pixels: torch.Tensor, tokens: torch.Tensor, image_text: ImageText
) -> None:
    for features, expected in (
        (towers[0](pixels), image_text.embed_images(pixels)),
        (towers[1](tokens), image_text.embed_texts(["a cat", "two dogs", ""])),
    ):
        torch.testing.assert_close(features.detach(), expected, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(3))


def test_exported_preprocessing_gives_the_pixels_and_tokens_of_training(image_text: ImageText) -> None:
    tokenizer = Tokenizer(default_bpe(), image_text.tokenize.context_length)
    plain = trained(image_text)
    numpy = with_numpy(image_text.preprocess, tokenizer, plain.image, plain.text)
    picture = draw("red circle", "export").resize((50, 37))
    assert torch.equal(numpy.pixels(picture), plain.pixels(picture))
    assert torch.equal(numpy.tokens(["A cat", "zwei Hunde"]), plain.tokens(["A cat", "zwei Hunde"]))


def test_pictures_of_other_modes_become_rgb(image_text: ImageText) -> None:
    numpy = with_numpy(image_text.preprocess, Tokenizer(default_bpe(), 12), torch.relu, torch.relu)
    assert numpy.pixels(Image.new("L", (40, 40))).shape == (3, 32, 32)

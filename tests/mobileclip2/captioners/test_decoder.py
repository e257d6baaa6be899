from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mobileclip2.captioners.coca import coca_of
from mobileclip2.captioners.decoder import CachedDecoder, SelfAttention
from mobileclip2.captioners.generate import image_tokens
from mobileclip2.errors import UserError
from mobileclip2.models.image_text import ImageText


@torch.inference_mode()
def test_logits_of_each_step_equal_those_of_the_full_model(captioner: ImageText, images: torch.Tensor) -> None:
    model, tokenizer = coca_of(captioner)
    image_of = [2, 0, 2, 5]
    tokens = torch.randint(1, 600, (4, 6), generator=torch.Generator().manual_seed(0))
    tokens[:, 0] = tokenizer.sot_token_id
    decoder = CachedDecoder(model, image_tokens(model, images), image_of, 6)
    stepped = torch.stack([decoder.step(tokens[:, position]) for position in range(6)], 1)
    seen = model(images[image_of])
    expected = model(
        None, tokens, image_latent=seen["image_features"], image_embs=seen["image_embs"], output_labels=False
    )
    torch.testing.assert_close(stepped, expected["logits"], atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_dropped_rows_and_images_do_not_change_the_others(captioner: ImageText, images: torch.Tensor) -> None:
    model, _ = coca_of(captioner)
    tokens = torch.randint(1, 600, (4, 2), generator=torch.Generator().manual_seed(0))
    whole, kept = (CachedDecoder(model, image_tokens(model, images), [0, 1, 1, 4], 2) for _ in range(2))
    for decoder in (whole, kept):
        decoder.step(tokens[:, 0])
    rows = torch.tensor([1, 3])
    kept.keep(rows)
    assert kept.image_of.tolist() == [0, 1]
    torch.testing.assert_close(kept.step(tokens[rows, 1]), whole.step(tokens[:, 1])[rows], atol=1e-5, rtol=1e-5)


def test_other_architectures_are_rejected(captioner: ImageText, images: torch.Tensor) -> None:
    model = copy.copy(coca_of(captioner)[0])
    model._modules = {**model._modules, "text": nn.Identity()}
    with pytest.raises(UserError, match="only the text tower of open_clip supports incremental decoding"):
        CachedDecoder(model, images, [0], 2)
    with pytest.raises(UserError, match="does not support open_clip's custom attention blocks"):
        SelfAttention(nn.Identity(), 2)

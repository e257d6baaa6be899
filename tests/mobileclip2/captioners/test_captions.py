from __future__ import annotations

import copy
from itertools import chain

import pytest
import torch

from mobileclip2.captioners.captions import FailedCaption, caption_images
from mobileclip2.captioners.coca import coca_of
from mobileclip2.config.captioner import GenerationSettings
from mobileclip2.models.image_text import ImageText

KEYS = ["a", "b", "c", "d", "e", "f"]
ONCE = GenerationSettings(max_tokens=20, min_tokens=4, retries=0)


def test_degenerate_captions_are_retried_without_changing_other_captions(
    open_clip_captioner: ImageText, images: torch.Tensor
) -> None:
    once, failures = caption_images(open_clip_captioner, images, KEYS, [0, 1, 2], ONCE)
    retried = ONCE.model_copy(update={"retries": 6})
    again, remaining = caption_images(open_clip_captioner, images, KEYS, [0, 1, 2], retried)
    assert 0 < len(failures) < 18, "the untrained model should fail now and then"
    assert len(remaining) < len(failures)
    for before, after in zip(chain(*once), chain(*again), strict=True):
        assert after == before or before == ""


def test_failed_captions_stay_empty_and_are_reported(open_clip_captioner: ImageText, images: torch.Tensor) -> None:
    written, failures = caption_images(open_clip_captioner, images, KEYS, [4, 2], ONCE)
    assert [len(captions) for captions in written] == [2] * 6
    empty = [
        (key, index)
        for key, captions in zip(KEYS, written, strict=True)
        for index, text in zip([4, 2], captions, strict=True)
        if not text
    ]
    assert empty and empty == [(failure.key, failure.caption) for failure in failures]


@pytest.fixture
def stuck(open_clip_captioner: ImageText) -> ImageText:
    """Return a captioner that only generates "the"."""
    captioner = copy.deepcopy(open_clip_captioner)
    model, tokenizer = coca_of(captioner)
    (word,) = (i for token, i in tokenizer.encoder.items() if token == "the</w>")
    with torch.no_grad():
        model.text_decoder.ln_final.weight.zero_()
        model.text_decoder.ln_final.bias.fill_(1)
        model.text_decoder.text_projection.zero_()
        model.text_decoder.text_projection[:, word] = 10
    return captioner


def test_a_caption_that_stays_degenerate_is_counted_once(stuck: ImageText, images: torch.Tensor) -> None:
    settings = GenerationSettings(max_tokens=12, retries=2)
    written, failures = caption_images(stuck, images[:2], KEYS[:2], [0], settings)
    assert written == [[""], [""]]
    assert failures == [FailedCaption("a", 0, "repetition"), FailedCaption("b", 0, "repetition")]


def test_retries_do_not_encode_the_image_again(stuck: ImageText, images: torch.Tensor) -> None:
    model, _ = coca_of(stuck)
    encoded: list[int] = []
    model.visual.register_forward_hook(lambda _m, inputs, _o: encoded.append(len(inputs[0])))
    caption_images(stuck, images, KEYS, [0, 1], GenerationSettings(max_tokens=12, retries=3))
    assert encoded == [6]

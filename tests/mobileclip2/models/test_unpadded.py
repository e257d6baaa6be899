"""Dropping padding does not change features, and towers that attend to padding keep it."""

import pytest
import torch

from mobileclip2.models.build import from_config
from mobileclip2.models.unpadded import encode_text

VISION = {"image_size": 32, "patch_size": 16, "width": 16, "layers": 1, "head_width": 8}
TEXT = {"context_length": 40, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2}
TEXTS = ["a cat", "two dogs on a green hill", "a"]

CLIP = {"embed_dim": 8, "vision_cfg": VISION, "text_cfg": TEXT}
CAUSAL = {
    "clip": CLIP,
    "clip with quick gelu": {**CLIP, "quick_gelu": True},
    "custom": {**CLIP, "custom_text": True},
    "linear projection": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "proj_bias": True}},
    "no projection": {**CLIP, "embed_dim": 32, "custom_text": True, "text_cfg": {**TEXT, "proj_type": "none"}},
    "end token": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "pool_type": "eos", "eos_id": 49407}},
}
PADDED = {
    "not causal": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "no_causal_mask": True}},
    "last token": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "pool_type": "last"}},
    "class token": {**CLIP, "custom_text": True, "text_cfg": {**TEXT, "embed_cls": True}},
}


def lengths_seen(model, tokens):
    """Return the features and the sequence length that the transformer received."""
    seen = []
    transformer = (model.text if hasattr(model, "text") else model).transformer
    hook = transformer.register_forward_hook(lambda _m, inputs, _o: seen.append(inputs[0].shape[1]))
    with torch.inference_mode():
        features = encode_text(model, tokens)
    hook.remove()
    return features, seen


@pytest.mark.parametrize("kind", [*CAUSAL, *PADDED])
def test_features_equal_those_of_the_full_context(kind):
    torch.manual_seed(1)
    image_text = from_config({"model_cfg": {**CAUSAL, **PADDED}[kind]})
    tokens = image_text.tokenize(TEXTS)
    found, seen = lengths_seen(image_text.model, tokens)
    with torch.inference_mode():
        expected = image_text.model.encode_text(tokens)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    whole = 41 if kind == "class token" else 40
    assert seen == [8 if kind in CAUSAL else whole]


def test_a_text_that_fills_the_context_is_not_shortened():
    image_text = from_config({"model_cfg": CLIP})
    tokens = image_text.tokenize(["word " * 60, "a"])
    found, seen = lengths_seen(image_text.model, tokens)
    torch.testing.assert_close(found, image_text.model.encode_text(tokens), atol=1e-5, rtol=1e-5)
    assert seen == [40]

"""The token cache does not change the tokens."""

import copy
import json

import open_clip
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from mobileclip2.models import words
from mobileclip2.models.words import clip_tokenizer

PLAIN = open_clip.get_tokenizer("ViT-B-32")
CACHING = clip_tokenizer("{}")


@given(st.text(st.sampled_from("aAbe's !?.,0149é漢́ß&;#<>_\n\t\U0001f600") | st.characters(), max_size=60))
@example("")
@example("<start_of_text>it's <END_OF_TEXT> &amp;amp; they'LL 2026")
@example("cafeâ€™s “quoted”\x00 ﬁne  i̇")
def test_tokens_equal_those_of_open_clip(text):
    for _ in range(2):
        assert torch.equal(CACHING([text]), PLAIN([text]))


@pytest.mark.parametrize("bound", [1, 3])
def test_the_token_cache_is_bounded(monkeypatch, bound):
    monkeypatch.setattr(words, "MAX_WORDS", bound)
    tokenizer = clip_tokenizer.__wrapped__("{}")
    for number in range(30):
        text = "".join(chr(97 + (number + place) % 26) for place in range(9)) + " <end_of_text> dog"
        assert torch.equal(tokenizer([text]), PLAIN([text]))
        assert len(tokenizer.encode._cache) <= bound and len(tokenizer.cache) <= bound + 2


def test_the_tokenizer_can_be_copied_to_a_loader_process():
    again = copy.deepcopy(CACHING)
    assert torch.equal(again(["two dogs"]), PLAIN(["two dogs"]))


def test_models_of_equal_settings_share_a_tokenizer_and_others_do_not():
    shared = clip_tokenizer('{"context_length": 8}')
    assert clip_tokenizer('{"context_length": 8}') is shared
    canonical = {"clean": "canonicalize", "context_length": 9}
    plain = open_clip.get_tokenizer("ViT-B-32", **canonical)
    for text in ("Two-Dogs, it's!", "a_cat"):
        assert torch.equal(clip_tokenizer(json.dumps(canonical))([text]), plain([text]))
        assert torch.equal(shared([text]), PLAIN([text], 8))

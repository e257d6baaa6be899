from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from open_clip.tokenizer import SimpleTokenizer

from mobileclip2.captioners.vocabulary import ShortTokenizer, text_of

CLIP = SimpleTokenizer(context_length=16)
SHORT = {size: ShortTokenizer(16, size) for size in (514, 640, 4096, 49_408)}


def test_the_full_vocabulary_equals_that_of_clip() -> None:
    texts = ["Monkey face", "a dog!! 35 km, 東京", ""]
    assert torch.equal(SHORT[49_408](texts), CLIP(texts))


@pytest.mark.parametrize("size", SHORT)
@given(text=st.text(max_size=20))
def test_any_text_is_encoded_within_the_vocabulary(size: int, text: str) -> None:
    tokens = SHORT[size].encode(text)
    assert all(token < size - 2 for token in tokens)
    assert text_of(SHORT[size], tokens) == CLIP.decode(CLIP.encode(text))


def test_start_and_end_are_the_last_two_ids() -> None:
    tokens = SHORT[640](["a dog"])[0]
    assert tokens[0] == 638 and 639 in tokens and tokens.max() == 639
    assert text_of(SHORT[640], [t for t in tokens.tolist() if t]) == "a dog "

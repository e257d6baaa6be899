from __future__ import annotations

import pytest
import torch
from hypothesis import example, given
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
@example(text="a <END_OF_TEXT> b")  # CLIP's tokenizer reads the names of its special tokens as these tokens
def test_any_text_is_encoded_within_the_vocabulary(size: int, text: str) -> None:
    tokens, clip = SHORT[size].encode(text), CLIP.encode(text)
    assert all(token < size for token in tokens)
    assert [token - size for token in tokens if token >= size - 2] == [id_ - 49_408 for id_ in clip if id_ >= 49_406]
    assert text_of(SHORT[size], tokens) == text_of(CLIP, clip)


def test_start_and_end_are_the_last_two_ids() -> None:
    tokens = SHORT[640](["a dog"])[0]
    assert tokens[0] == 638 and 639 in tokens and tokens.max() == 639
    assert text_of(SHORT[640], [t for t in tokens.tolist() if t]) == "a dog "

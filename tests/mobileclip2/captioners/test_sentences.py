from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobileclip2.captioners.sentences import degenerate, first_sentence


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a dog on a beach", "a dog on a beach"),
        ("  a dog\n on  a beach . ", "a dog on a beach"),
        ("a dog on a beach . it is sunny . very", "a dog on a beach"),
        ("a dog on a beach. it is sunny", "a dog on a beach"),
        ("a portrait of dr. smith. he smiles", "a portrait of dr. smith"),
        ("a portrait of dr . smith . he smiles", "a portrait of dr . smith"),
        ("a run of 3.5 km. hot", "a run of 3.5 km"),
        ("a run of 3 . 5 km . hot", "a run of 3 . 5 km"),
        ("the u.s. flag. a pole", "the u.s. flag"),
        ("the u . s . flag . a pole", "the u . s . flag"),
        ("a st . bernard . a dog", "a st . bernard"),
        ("J. R. R. Tolkien. An author", "J. R. R. Tolkien"),
        ("a page of example.com. a site", "a page of example.com"),
        ("the no . 7 bus . red", "the no . 7 bus"),
        ("she says no . he says yes", "she says no"),
        ("a fig . a plate", "a fig"),
        ("made in 1 9 9 8 . the box", "made in 1 9 9 8"),
        ("a dog ... and a cat", "a dog"),
        ("wow ! a dog ? yes . no", "wow ! a dog ? yes"),
        ('a sign says " stop . " on a road', 'a sign says " stop'),
        (". a dog", ""),
        ("", ""),
    ],
)
def test_only_the_first_sentence_is_kept(text: str, kept: str) -> None:
    assert first_sentence(text) == kept


@given(st.text(alphabet="ab.3 \n!é", max_size=40))
def test_the_first_sentence_is_a_prefix_of_the_normalized_text(text: str) -> None:
    kept = first_sentence(text)
    assert " ".join(text.split()).startswith(kept)
    assert kept == " ".join(kept.split()) and not kept.endswith(".")


@pytest.mark.parametrize(
    ("caption", "reason"),
    [
        ("banana", None),
        ("a very very very tall man", None),
        ("a coin of 1 0 0 0", None),
        ("1 0 0 0", None),
        ("bora bora", None),
        ("a dog and a dog and a cat", None),
        ("", "empty"),
        ("  ", "empty"),
        ("! , -", "punctuation"),
        ("a \ufffd dog", "broken-text"),
        ("dog dog dog", "repetition"),
        ("a dog dog dog dog dog", "repetition"),
        ("a dog a dog a dog a dog", "repetition"),
        ("see the a red big dog a red big dog a red big dog", "repetition"),
    ],
)
def test_degenerate_captions_are_detected_with_a_reason(caption: str, reason: str | None) -> None:
    assert degenerate(caption) == reason

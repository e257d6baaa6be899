"""Captions without content are detected. Ordinary captions are accepted."""

from __future__ import annotations

import ast

import pytest

from mobileclip2.data.caption_text import MAX_PARSED_CHARS, is_literal, is_placeholder, is_visible


@pytest.mark.parametrize("text", ["nan", "None", " null ", "'NaN'", "N/A"])
def test_printed_missing_values_are_placeholders(text):
    assert is_placeholder(text)


@pytest.mark.parametrize("text", ["['a', 'b']", '{"caption": "x"}', "b'bytes'", "(1, 2)"])
def test_printed_objects_are_literals(text):
    assert is_literal(text)


def test_a_long_text_in_brackets_is_a_literal_without_parsing(monkeypatch):
    monkeypatch.delattr(ast, "literal_eval")
    assert is_literal("[" + "0," * MAX_PARSED_CHARS + "]")
    assert not is_literal("a [long] caption " * MAX_PARSED_CHARS)


@pytest.mark.parametrize("text", ["\u200b\u200d", "\ufeff", "\u2800", " \n"])
def test_text_without_visible_characters_is_invisible(text):
    assert not is_visible(text)


@pytest.mark.parametrize("text", ["a nan bread", "none of the dogs", "[a] red bicycle", "猫", "🚲", "(two dogs)"])
def test_ordinary_captions_are_visible_and_not_placeholders_or_literals(text):
    assert is_visible(text)
    assert not is_placeholder(text)
    assert not is_literal(text)

"""Tokens of words that were met before, for as many words as fit a bound."""

from __future__ import annotations

from open_clip.tokenizer import SimpleTokenizer

WORDS = 1 << 17
"""distinct words that a process remembers; billions of captions have more than fit its memory"""

LETTERS = 32
"""A longer word is not remembered: in scripts without spaces a whole caption is one word."""


class Words:
    """Takes the place of ``encode`` of an open_clip tokenizer, with the same result.

    open_clip remembers the parts of every word that it ever meets, and looks up their numbers again each time.
    """

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of ``text`` without start and end token."""
        tokens: list[int] = []
        for word in self._tokenizer.pat.findall(self._tokenizer.clean_fn(text)):
            tokens += self._known.get(word) or self._learned(word)
        return tokens

    def _learned(self, word: str) -> list[int]:
        tokenizer = self._tokenizer
        letters = "".join(tokenizer.byte_encoder[byte] for byte in word.encode())
        tokens = [tokenizer.encoder[part] for part in tokenizer.bpe(letters).split(" ")]
        if tokens[0] not in tokenizer.all_special_ids:
            tokenizer.cache.pop(letters, None)
        if len(self._known) >= WORDS:
            self._known.clear()
        if len(word) <= LETTERS:
            self._known[word] = tokens
        return tokens


def remember_words(tokenizer: SimpleTokenizer) -> SimpleTokenizer:
    """Make the tokenizer cache words, and return it."""
    tokenizer.encode = Words(tokenizer)
    return tokenizer

"""CLIP's tokenizer of open_clip with a bounded token cache."""

from __future__ import annotations

import json
from functools import lru_cache

from open_clip.tokenizer import SimpleTokenizer

MAX_WORDS = 1 << 17
"""Most words in the cache. The words of billions of captions do not fit into memory."""

MAX_WORD_LENGTH = 32
"""Longest word in the cache. In scripts without spaces a caption is a single word."""


class CachedEncoder:
    """Replace ``encode`` of an open_clip tokenizer with a version that caches the tokens of each word.

    open_clip caches the pieces of every word without a bound and looks up their tokens again for each text.
    """

    def __init__(self, tokenizer: SimpleTokenizer) -> None:
        self._tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}

    def __call__(self, text: str) -> list[int]:
        """Return the tokens of ``text`` without start and end tokens."""
        tokens: list[int] = []
        for word in self._tokenizer.pat.findall(self._tokenizer.clean_fn(text)):
            tokens += self._cache.get(word) or self._encode_word(word)
        return tokens

    def _encode_word(self, word: str) -> list[int]:
        tokenizer = self._tokenizer
        characters = "".join(tokenizer.byte_encoder[byte] for byte in word.encode())
        tokens = [tokenizer.encoder[piece] for piece in tokenizer.bpe(characters).split(" ")]
        if tokens[0] not in tokenizer.all_special_ids:
            tokenizer.cache.pop(characters, None)
        if len(self._cache) >= MAX_WORDS:
            self._cache.clear()
        if len(word) <= MAX_WORD_LENGTH:
            self._cache[word] = tokens
        return tokens


@lru_cache(maxsize=16)
def clip_tokenizer(settings: str) -> SimpleTokenizer:
    """Return CLIP's tokenizer with a token cache. ``settings`` are its arguments as JSON.

    Models of equal settings share it, because parsing its vocabulary takes 0.07 s.
    """
    tokenizer = SimpleTokenizer(**json.loads(settings))
    tokenizer.encode = CachedEncoder(tokenizer)
    return tokenizer

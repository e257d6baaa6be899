"""CLIP's byte-pair encoding (Radford et al. 2021) with numpy and the standard library.

The tokens equal those of open_clip's SimpleTokenizer, except that wrongly decoded text ("cafÃ©") is not repaired.
"""

from __future__ import annotations

import gzip
import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np

START, END = "<start_of_text>", "<end_of_text>"
END_OF_WORD = "</w>"
MERGES = 49152 - 256 - 2
"""Number of merges that are read after the first line of the vocabulary file."""

_UNSPLIT = re.compile(f"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE)
_CONTROL = [*range(0x09), 0x0B, *range(0x0E, 0x20), 0x7F, *range(0x206A, 0x2070), 0xFEFF, *range(0xFFF9, 0xFFFD)]
_DIGRAPHS = "ĲĳŉǱǲǳǄǅǆǇǈǉǊǋǌﬀﬁﬂﬃﬄﬆ"
_WIDE = [" ", *map(chr, range(0xFF01, 0xFFF0))]
_PLAIN = {
    **{ord(wide): unicodedata.normalize("NFKC", wide) for wide in _WIDE},
    **{ord(digraph): unicodedata.normalize("NFKC", digraph) for digraph in _DIGRAPHS},
    ord("ﬅ"): "ſt",
    0x3000: " ",
    **dict.fromkeys(_CONTROL),
}
_STRAIGHT = {**dict.fromkeys([0x2BC, *range(0x2018, 0x201C)], "'"), **dict.fromkeys(range(0x201C, 0x2020), '"')}


class Tokenizer:
    """CLIP's tokenizer. ``vocabulary`` is the gzipped list of merges, and ``context`` is the context length."""

    def __init__(self, vocabulary: str | Path, context: int) -> None:
        with gzip.open(vocabulary, "rt", encoding="utf-8") as file:
            merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 1 + MERGES]]
        self.context = context
        self._characters = _byte_characters()
        characters = list(self._characters.values())
        vocabulary_symbols = [*characters, *(c + END_OF_WORD for c in characters), *map("".join, merges), START, END]
        self._ids = {symbol: token for token, symbol in enumerate(vocabulary_symbols)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._cache: dict[str, list[int]] = {symbol: [self._ids[symbol]] for symbol in (START, END)}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """Return int64 ``[len(texts), context]``: start, tokens, end and zeros. Long texts are truncated before the end."""
        tokens = np.zeros((len(texts), self.context), np.int64)
        for row, text in zip(tokens, texts, strict=True):
            ids = [self._ids[START], *self.encode(text)[: self.context - 2], self._ids[END]]
            row[: len(ids)] = ids
        return tokens

    def encode(self, text: str) -> list[int]:
        """Return the tokens of a text without start and end."""
        return [token for word in _words(_clean(text)) for token in self._tokens(word)]

    def _tokens(self, word: str) -> list[int]:
        if word not in self._cache:
            symbols = [self._characters[byte] for byte in word.encode()]
            symbols[-1] += END_OF_WORD
            self._cache[word] = [self._ids[symbol] for symbol in self._merge(symbols)]
        return self._cache[word]

    def _merge(self, symbols: list[str]) -> list[str]:
        """Merge neighboring symbols in the order of the merge ranks."""
        while len(symbols) > 1:
            pair = min(pairwise(symbols), key=lambda pair: self._ranks.get(pair, MERGES))
            if pair not in self._ranks:
                break
            merged: list[str] = []
            for symbol in symbols:
                if merged and (merged[-1], symbol) == pair:
                    merged[-1] += symbol
                    # the empty string keeps the merged symbol from merging again in this pass
                    merged.append("")
                else:
                    merged.append(symbol)
            symbols = [symbol for symbol in merged if symbol]
        return symbols


def _byte_characters() -> dict[int, str]:
    """Map each byte to a printable character. Bytes without one get the characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{byte: chr(byte) for byte in printable},
        **{byte: chr(256 + index) for index, byte in enumerate(others)},
    }


def _clean(text: str) -> str:
    text = html.unescape(html.unescape(text))
    text = unicodedata.normalize("NFC", text.translate(_PLAIN).translate(_STRAIGHT))
    return " ".join(text.split()).lower()


def _words(text: str) -> Iterator[str]:
    """Split a text into words, single digits and runs of other characters, as CLIP does."""
    start = 0
    while start < len(text):
        unsplit = _UNSPLIT.match(text, start)
        if unsplit:
            end = unsplit.end()
        else:
            kind = _kind(text[start])
            end = start + 1
            while kind in "L*" and end < len(text) and _kind(text[end]) == kind:
                end += 1
        if text[start] != " ":
            yield text[start:end]
        start = end


def _kind(character: str) -> str:
    """Return "L" for a letter, "N" for a number, " " for a space and "*" for other characters."""
    if character == " ":
        return character
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "*"

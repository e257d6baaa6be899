"""CLIP's byte-pair encoding (Radford et al. 2021) with numpy and the standard library alone.

It gives the tokens of open_clip's SimpleTokenizer, but repairs no text that was decoded wrongly ("cafÃ©").
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
"""lines of the vocabulary file that are used, after its first"""

_WHOLE = re.compile(f"{START}|{END}|'s|'t|'re|'ve|'m|'ll|'d", re.IGNORECASE)
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
    """``vocabulary`` is CLIP's gzipped list of merges; ``context`` the number of tokens that the model takes."""

    def __init__(self, vocabulary: str | Path, context: int) -> None:
        with gzip.open(vocabulary, "rt", encoding="utf-8") as file:
            merges = [tuple(line.split()) for line in file.read().split("\n")[1 : 1 + MERGES]]
        self.context = context
        self._letters = _byte_letters()
        letters = list(self._letters.values())
        names = [*letters, *(letter + END_OF_WORD for letter in letters), *map("".join, merges), START, END]
        self._numbers = {name: number for number, name in enumerate(names)}
        self._ranks = {pair: rank for rank, pair in enumerate(merges)}
        self._known: dict[str, list[int]] = {name: [self._numbers[name]] for name in (START, END)}

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """int64 ``[len(texts), context]``: start, the text's tokens, end, zeros. A long text is cut before the end."""
        tokens = np.zeros((len(texts), self.context), np.int64)
        for row, text in zip(tokens, texts, strict=True):
            inner = self.encode(text)[: self.context - 2]
            whole = [self._numbers[START], *inner, self._numbers[END]]
            row[: len(whole)] = whole
        return tokens

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without start and end."""
        return [token for piece in _pieces(_clean(text)) for token in self._tokens(piece)]

    def _tokens(self, piece: str) -> list[int]:
        if piece not in self._known:
            parts = [self._letters[byte] for byte in piece.encode()]
            parts[-1] += END_OF_WORD
            self._known[piece] = [self._numbers[part] for part in self._merged(parts)]
        return self._known[piece]

    def _merged(self, parts: list[str]) -> list[str]:
        """Merge neighbors everywhere, the pair that is most frequent in the training text first."""
        while len(parts) > 1:
            pair = min(pairwise(parts), key=lambda pair: self._ranks.get(pair, MERGES))
            if pair not in self._ranks:
                break
            joined: list[str] = []
            for part in parts:
                if joined and (joined[-1], part) == pair:
                    joined[-1] += part
                    # what was just joined is no neighbor to join again
                    joined.append("")
                else:
                    joined.append(part)
            parts = [part for part in joined if part]
        return parts


def _byte_letters() -> dict[int, str]:
    """Map each byte to a printable character. Bytes without one get the characters from 256 on."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {
        **{byte: chr(byte) for byte in printable},
        **{byte: chr(256 + place) for place, byte in enumerate(others)},
    }


def _clean(text: str) -> str:
    text = html.unescape(html.unescape(text))
    text = unicodedata.normalize("NFC", text.translate(_PLAIN).translate(_STRAIGHT))
    return " ".join(text.split()).lower()


def _pieces(text: str) -> Iterator[str]:
    """Words, single digits, and runs of other signs, as CLIP divides a text."""
    place = 0
    while place < len(text):
        whole = _WHOLE.match(text, place)
        if whole:
            end = whole.end()
        else:
            kind = _kind(text[place])
            end = place + 1
            while kind in "L*" and end < len(text) and _kind(text[end]) == kind:
                end += 1
        if text[place] != " ":
            yield text[place:end]
        place = end


def _kind(sign: str) -> str:
    """L a letter, N a number, a space, * anything else."""
    if sign == " ":
        return sign
    category = unicodedata.category(sign)[0]
    return category if category in "LN" else "*"

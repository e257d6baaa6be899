"""CLIP's byte-pair tokenizer with a smaller vocabulary."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from open_clip.tokenizer import SimpleTokenizer

_SPECIAL = 2


class ShortTokenizer(SimpleTokenizer):  # type: ignore[misc]  # open_clip has no types
    """A tokenizer with the first ``size`` entries of CLIP's vocabulary, from 514 to 49,408 (CLIP's full vocabulary).

    The vocabulary lists bytes and then merges from frequent to rare, so any text can be encoded and rare words take more
    tokens. The start and end tokens are the last two ids, as in CLIP.
    """

    encoder: dict[str, int]
    decoder: dict[int, str]
    bpe_ranks: dict[tuple[str, ...], int]
    sot_token_id: int
    eot_token_id: int

    def __init__(self, context_length: int, size: int) -> None:
        super().__init__(context_length=context_length)
        special = [self.decoder[self.sot_token_id], self.decoder[self.eot_token_id]]
        tokens = [*islice(self.encoder, size - _SPECIAL), *special]
        merges = size - _SPECIAL - 2 * len(self.byte_encoder)
        self.encoder = {token: index for index, token in enumerate(tokens)}
        self.decoder = dict(enumerate(tokens))
        self.bpe_ranks = dict(islice(self.bpe_ranks.items(), merges))
        self.vocab_size = size
        self.sot_token_id, self.eot_token_id = size - 2, size - 1
        self.all_special_ids = [self.sot_token_id, self.eot_token_id]


def text_of(tokenizer: SimpleTokenizer, tokens: Sequence[int]) -> str:
    """Decode ``tokens`` without special tokens. Bytes that are not UTF-8 become U+FFFD."""
    return str(tokenizer.decode([token for token in tokens if token not in tokenizer.all_special_ids]))

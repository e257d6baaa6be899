"""CLIP's vocabulary, loaded once by the process that runs and pods are forked from: half of what the tiny graph takes."""

from __future__ import annotations

from typing import Any

from open_clip.tokenizer import DEFAULT_CONTEXT_LENGTH, SimpleTokenizer

WHOLE = dict(SimpleTokenizer().__dict__)


def _remembered(self: SimpleTokenizer, context_length: int = DEFAULT_CONTEXT_LENGTH, **other: Any) -> None:
    assert not other, f"not loaded once: {other}"
    self.__dict__.update(WHOLE, cache=dict(WHOLE["cache"]), context_length=context_length)


SimpleTokenizer.__init__ = _remembered

"""The exported tokenizer equals that of open_clip."""

from __future__ import annotations

import random

import numpy as np
import pytest
from open_clip.tokenizer import SimpleTokenizer, default_bpe

from mobileclip2.export.shipped.tokens import Tokenizer

TEXTS = [
    "",
    "a photo of a cat",
    "  Tabs\tand\nlines\u2028and\u00a0hard spaces  ",
    "A Cat's DON'T we'll I'VE they'd 'street !'s",
    "naïve café Ünïcode e\u0301 — “quoted” ‘x’ it’s",
    "日本語 一二三 １２３ ＡＢＣ！\u3000한국어 हिन्दी ไทย مرحبا",
    "🙂🙂 👩‍👩‍👧 🇩🇪",
    "ﬁne ﬂow ﬅ Ǆ ŉ İstanbul ẞß ΣΑΣ ſ'ſ K",
    "x²³ ½ Ⅷ 12345 ¡¿€£",
    "&lt;b&gt; &amp;amp; &quot;",
    "<start_of_text> inside <end_of_text>",
    "zero\u200bwidth \ufeffmark nul\x00 soft\u00adhyphen a_b _c_",
    "aaaaaaaabbbbababab",
    "long " * 100,
]
ALPHABET = [
    *map(chr, range(32, 127)),
    *map(chr, range(0x370, 0x530)),
    *map(chr, range(0x5D0, 0x5EA)),
    *map(chr, range(0x4E00, 0x4E50)),
    *map(chr, range(0x1F600, 0x1F640)),
    *map(chr, range(0x2010, 0x2030)),
]
"""Alphabet without accented Latin letters, because open_clip repairs text that looks wrongly decoded."""


@pytest.mark.parametrize("context", [14, 77])
def test_tokens_equal_open_clip(context):
    choose = random.Random(0)
    drawn = ["".join(choose.choices(ALPHABET, k=choose.randint(1, 30))) for _ in range(300)]
    theirs = SimpleTokenizer(context_length=context)([*TEXTS, *drawn]).numpy()
    ours = Tokenizer(default_bpe(), context)([*TEXTS, *drawn])
    assert ours.dtype == np.int64
    assert [text for text, one, other in zip([*TEXTS, *drawn], ours, theirs, strict=True) if (one != other).any()] == []


def test_wrongly_decoded_text_is_not_repaired():
    tokenizer = Tokenizer(default_bpe(), 77)
    assert tokenizer.encode("cafÃ©") != tokenizer.encode("café") == SimpleTokenizer().encode("cafÃ©")

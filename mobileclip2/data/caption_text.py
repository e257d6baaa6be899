"""Detect captions and names that have the form of text and no content, or that a tokenizer cannot tell apart."""

from __future__ import annotations

import ast
import unicodedata
import warnings

from mobileclip2.data.bad_sample import BadSample

PLACEHOLDERS = {"nan", "none", "null", "<na>", "n/a", "nat", "undefined"}
"""printed forms of a missing value, in lower case"""

_BLANK = {"\u115f", "\u1160", "\u2800", "\u3164", "\uffa0"}
"""characters that Unicode counts as letters or symbols, and that fonts draw as white space"""

_LITERALS = {"[": "]", "(": ")", "{": "}"}

MAX_PARSED_CHARS = 1 << 16
"""maximum length of a text that is parsed, which takes 500 times its memory"""


def is_visible(text: str) -> bool:
    """Return whether a text has a character that is drawn: no white space, control, format or combining character."""
    return any(unicodedata.category(each)[0] in "LNPS" and each not in _BLANK for each in text)


def is_placeholder(text: str) -> bool:
    """Return whether a text is the printed form of a missing value, such as ``nan`` or ``None``."""
    return len(text) <= 12 and text.strip().strip("\"'").lower() in PLACEHOLDERS


def is_literal(text: str) -> bool:
    """Return whether a text is a printed Python or JSON list, mapping or bytes object."""
    text = text.strip()
    is_bytes = text[:2] in ("b'", 'b"') and text[-1:] == text[1:2]
    if not is_bytes and (len(text) < 2 or _LITERALS.get(text[0]) != text[-1]):
        return False
    if len(text) > MAX_PARSED_CHARS:
        return True  # captions of this length are not written in brackets
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return isinstance(ast.literal_eval(text), list | tuple | dict | set | bytes)
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
        return False


def check_content(caption: str, what: str = "the caption") -> None:
    """Check that a caption is not a value that a program printed. ``what`` begins the detail of the error.

    Raises:
        BadSample: ``placeholder-caption`` or ``literal-caption``.
    """
    if is_placeholder(caption):
        raise BadSample("placeholder-caption", f"{what} is '{caption}', a missing value that a program printed")
    if is_literal(caption):
        raise BadSample("literal-caption", f"{what} is a printed list or mapping: {caption[:80]}")


def normalized_name(name: str) -> str:
    """Return a name as tokenizers such as CLIP's see it: case, spaces and Unicode forms make no difference."""
    return " ".join(unicodedata.normalize("NFC", name.casefold()).split())

"""Extract the first sentence of a generated caption and detect degenerate captions."""

from __future__ import annotations

import re

_TITLES = {"dr", "mr", "mrs", "ms", "prof", "st", "rev", "gen", "col", "lt", "sgt", "gov", "hon"}
_PLACES = {"mt", "ft", "ave", "blvd", "rd"}
_FIRMS = {"inc", "ltd", "co", "corp", "dept", "est"}
_MONTHS = {"jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"}
_ABBREVIATIONS = _TITLES | _PLACES | _FIRMS | _MONTHS | {"jr", "sr", "vs", "etc", "approx"}
_BEFORE_A_NUMBER = {"no", "nos", "p", "pp", "fig", "vol", "ch"}
"""Words that are abbreviations only before a number, as in "no . 7"."""

_LETTER = re.compile(r"[^\W\d_]")
_WORD_BEFORE = re.compile(r"(\w+)\s*$")
_WORD_AFTER = re.compile(r"\s*(\w+)")


def first_sentence(text: str) -> str:
    """Return the first sentence of ``text`` without its period, with white space collapsed.

    Only a period ends a sentence, as in the published captions. A period after a title, an abbreviation or an initial, or
    inside a number, a name or an address does not end it. CLIP's tokenizer puts spaces around punctuation
    ("dr . smith", "3 . 5 km"), so the neighboring words decide and not the spaces.
    """
    text = " ".join(text.split())
    for period in re.finditer(r"\.", text):
        if _ends_sentence(text[: period.start()], text[period.end() :]):
            return text[: period.start()].strip()
    return text


def _ends_sentence(before: str, after: str) -> bool:
    left, right = _WORD_BEFORE.search(before), _WORD_AFTER.match(after)
    if left is None or right is None:
        return True
    word, following = left[1].lower(), right[1]
    unspaced = left[0] == left[1] and right[0] == right[1]
    if unspaced or (word[-1].isdigit() and following[0].isdigit()):
        return False
    if word in _BEFORE_A_NUMBER:
        return not following[0].isdigit()
    initial = len(word) == 1 and word.isalpha()
    return not initial and word not in _ABBREVIATIONS


def degenerate(caption: str) -> str | None:
    """Return "empty", "punctuation", "broken-text" or "repetition" if ``caption`` is degenerate, or else None.

    A repetition is a run of one to four words that occurs three times or more in a row and fills more than two thirds of
    the caption.
    """
    if not caption.strip():
        return "empty"
    if "\ufffd" in caption:
        return "broken-text"
    if not any(c.isalnum() for c in caption):
        return "punctuation"
    words = caption.lower().split()
    if any(3 * _longest_run(words, size) > 2 * len(words) for size in range(1, 5)):
        return "repetition"
    return None


def _longest_run(words: list[str], size: int) -> int:
    """Return the length in words of the longest run that repeats ``size`` words three times or more, or 0."""
    longest = 0
    for start in range(len(words) - 3 * size + 1):
        unit = words[start : start + size]
        if not any(map(_LETTER.search, unit)):
            continue
        end = start + size
        while words[end : end + size] == unit:
            end += size
        if end - start >= 3 * size:
            longest = max(longest, end - start)
    return longest

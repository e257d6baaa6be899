"""From what a captioner wrote to what is stored: its first sentence, and whether that is worth storing."""

from __future__ import annotations

import re

_TITLES = {"dr", "mr", "mrs", "ms", "prof", "st", "rev", "gen", "col", "lt", "sgt", "gov", "hon"}
_PLACES = {"mt", "ft", "ave", "blvd", "rd"}
_FIRMS = {"inc", "ltd", "co", "corp", "dept", "est"}
_MONTHS = {"jan", "feb", "mar", "apr", "jun", "jul", "aug", "sep", "sept", "oct", "nov", "dec"}
_ABBREVIATIONS = _TITLES | _PLACES | _FIRMS | _MONTHS | {"jr", "sr", "vs", "etc", "approx"}
_BEFORE_A_NUMBER = {"no", "nos", "p", "pp", "fig", "vol", "ch"}
"""abbreviations only if a number follows: "no . 7", but "she says no . he"; a fig is also a fruit"""

_PERIOD = re.compile(r"\.")
_LETTER = re.compile(r"[^\W\d_]")
_WORD_BEFORE = re.compile(r"(\w+)\s*$")
_WORD_AFTER = re.compile(r"\s*(\w+)")


def first_sentence(text: str) -> str:
    """``text`` up to its first sentence end, without the period, white space collapsed.

    Only a period ends a sentence, as in the published captions. One does not after a title or an
    abbreviation, after an initial or inside a number, a name or an address. CLIP's tokenizer sets spaces
    around punctuation ("dr . smith", "3 . 5 km"), so a period is judged by the words beside it and not by the
    space.
    """
    text = " ".join(text.split())
    for period in _PERIOD.finditer(text):
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
    """Return why ``caption`` is not worth storing, or None if it is.

    The reasons are "empty", "punctuation", "broken-text" and "repetition".

    Repetition is one to four words said three times or more in a row that make up most of the caption.
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
    """Count the words of the longest stretch that repeats the same ``size`` words three times or more.

    Return 0 if there is no such stretch.
    """
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

"""The concepts that the drawings show: the emoji of five groups, with the words that people wrote for them."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

T = TypeVar("T")

SEED = 0
PICTURED_GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")

GOOD, POOR = 45, 25
"""Percent of the captions that name the drawn concept, and percent that are keywords. The others are wrong."""

PHRASES = (
    "{}",
    "{} icon",
    "{} clipart",
    "a picture of a {}",
    "cute {} sticker",
    "vector drawing of a {}",
    "free {} emoji download",
    "{} on a white background",
    "cartoon {}, flat design",
    "illustration of {}",
)


@dataclass(frozen=True)
class Concept:
    """One emoji: its code points joined by '-', its English name, and its keywords."""

    hexcode: str
    label: str
    tags: tuple[str, ...]
    group: str


def read_concepts(emojibase: Path) -> list[Concept]:
    """Return the concepts of the five pictured groups from ``emojibase-data``, in the order of Unicode."""
    names = json.loads((emojibase / "meta" / "groups.json").read_text("utf-8"))["groups"]
    emoji = json.loads((emojibase / "en" / "data.json").read_text("utf-8"))
    emoji.sort(key=lambda entry: entry.get("order", 0))
    return [
        Concept(entry["hexcode"], entry["label"], tuple(entry["tags"]), names[str(entry["group"])])
        for entry in emoji
        if names.get(str(entry.get("group"))) in PICTURED_GROUPS
    ]


def slug(label: str) -> str:
    """Return the icon name of a label in icon sets: ``woman’s boot`` -> ``womans-boot``."""
    ascii_label = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_label.lower().replace("'", "")).strip("-")


def digest(*parts: str) -> str:
    """Return the hash from which each random choice is derived, so that choices do not depend on each other's order."""
    return hashlib.sha256("\0".join((str(SEED), *parts)).encode()).hexdigest()


def shuffled(items: Iterable[T], purpose: str, name: Callable[[T], str]) -> list[T]:
    """Return the items in an order that depends only on the seed, the purpose and their names."""
    return sorted(items, key=lambda item: digest(purpose, name(item)))


def caption_kind(hexcode: str, artist: str) -> Literal["good", "poor", "wrong"]:
    """Return whether the raw caption of a drawing names its concept, is keywords, or names another concept."""
    chance = int(digest("caption", f"{artist} {hexcode}"), 16) % 100
    if chance < GOOD:
        return "good"
    return "poor" if chance < GOOD + POOR else "wrong"


def web_caption(concept: Concept, artist: str, concepts: Sequence[Concept]) -> str:
    """Return the raw caption of a concept that an artist drew. Each artist's drawing has a caption of its own.

    A good caption is a phrase with the concept's name. A poor one has one to three of its tags. A wrong one is a phrase with
    the name of another concept of ``concepts``.
    """
    purpose = f"{artist} {concept.hexcode}"
    kind = caption_kind(concept.hexcode, artist)
    if kind == "poor":
        count = 1 + int(digest("count", purpose), 16) % 3
        drawn = shuffled(concept.tags, f"tags {purpose}", str)[:count]
        return " ".join(tag for tag in concept.tags if tag in drawn)
    named = concept
    if kind == "wrong":
        others = (other for other in concepts if other != concept)
        named = min(others, key=lambda other: digest("wrong", purpose, other.hexcode))
    return min(PHRASES, key=lambda phrase: digest("phrase", purpose, phrase)).format(named.label)

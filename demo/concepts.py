"""What the drawings show: the emoji of five groups, with the words people wrote for them."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

SEED = 0
PICTURED_GROUPS = ("animals-nature", "food-drink", "travel-places", "activities", "objects")


@dataclass(frozen=True)
class Concept:
    """One emoji: its code points joined by '-', its English name, and keywords for it."""

    hexcode: str
    label: str
    tags: tuple[str, ...]
    group: str


def read_concepts(emojibase: Path) -> list[Concept]:
    """The concepts of the five groups that a picture shows, in Unicode's order, from ``emojibase-data``."""
    names = json.loads((emojibase / "meta" / "groups.json").read_text("utf-8"))["groups"]
    emoji = json.loads((emojibase / "en" / "data.json").read_text("utf-8"))
    emoji.sort(key=lambda entry: entry.get("order", 0))
    return [
        Concept(entry["hexcode"], entry["label"], tuple(entry["tags"]), names[str(entry["group"])])
        for entry in emoji
        if names.get(str(entry.get("group"))) in PICTURED_GROUPS
    ]


def slug(label: str) -> str:
    """Name of a label's icon in icon sets: ``woman’s boot`` -> ``womans-boot``."""
    ascii_label = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", "-", ascii_label.lower().replace("'", "")).strip("-")


def digest(*parts: str) -> str:
    """Hash that every random choice is derived from, so that none depends on the order of another."""
    return hashlib.sha256("\0".join((str(SEED), *parts)).encode()).hexdigest()


def shuffled(items: Iterable[T], purpose: str, name: Callable[[T], str]) -> list[T]:
    """The items in an order that depends on the seed, the purpose and their names alone."""
    return sorted(items, key=lambda item: digest(purpose, name(item)))


def raw_caption(concept: Concept, artist: str) -> str:
    """A poor caption, as the web has them: one to three of the concept's tags, drawn anew for each artist."""
    count = 1 + int(digest("count", artist, concept.hexcode), 16) % 3
    drawn = shuffled(concept.tags, f"tags {artist} {concept.hexcode}", str)[:count]
    return " ".join(tag for tag in concept.tags if tag in drawn)

"""The choices that the build makes. The built files depend only on these choices."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path

import pytest

from demo.artists import Artist, IconSet, package_folder
from demo.build import UNSEEN, Split
from demo.concepts import GOOD, PHRASES, POOR, Concept, caption_kind, read_concepts, shuffled, slug, web_caption
from demo.tars import write_tar
from mobileclip2.errors import UserError

BANANA = Concept("1F34C", "banana", ("animal", "fruit", "monkey", "yellow"), "food-drink")
BOOT = Concept("1F462", "woman’s boot", ("boot", "clothing"), "objects")


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("monkey face", "monkey-face"),
        ("woman’s boot", "womans-boot"),
        ("jack-o-lantern", "jack-o-lantern"),
        ("piñata", "pinata"),
        ("pool 8 ball", "pool-8-ball"),
        ("mouse (computer)", "mouse-computer"),
    ],
)
def test_slug(label: str, name: str) -> None:
    assert slug(label) == name


def icon_set(artist: Artist, *names: str, codes: dict[str, str] | None = None, **aliases: str) -> IconSet:
    parents = {alias.replace("_", "-"): {"parent": parent} for alias, parent in aliases.items()}
    icons = {
        "icons": {name: {"body": "<g/>"} for name in names},
        "aliases": parents,
        "width": 36,
        "height": 36,
    }
    return IconSet(artist, icons, codes)


def test_match_by_slug_follows_aliases_and_does_not_guess() -> None:
    artist = Artist("some", "some", "1", "MIT")
    icons = icon_set(artist, "boots", "bananas", womans_boot="boots")
    assert icons.icon_name(BOOT) == "boots"
    assert icons.icon_name(BANANA) is None


def test_an_alias_that_transforms_its_icon_is_not_followed() -> None:
    icons = icon_set(Artist("some", "some", "1", "MIT"), "boots")
    icons.icons["aliases"]["womans-boot"] = {"parent": "boots", "hFlip": True}
    assert icons.icon_name(BOOT) is None


def test_match_without_hyphens() -> None:
    assert icon_set(Artist("some", "some", "1", "MIT", hyphens=False), "womansboot").icon_name(BOOT) == "womansboot"


def test_match_by_code_point_ignores_the_slug() -> None:
    artist = Artist("some", "some", "1", "MIT", codes_of="some")
    icons = icon_set(artist, "yellow-fruit", "banana", codes={"1f34c": "yellow-fruit", "1f462": "gone"})
    assert icons.icon_name(BANANA) == "yellow-fruit"
    assert icons.icon_name(BOOT) is None


def test_match_by_code_point_without_variation_selector() -> None:
    artist = Artist("some", "some", "1", "MIT", codes_of="some")
    comb = Concept("1F56F-FE0F", "candle", ("light",), "objects")
    assert icon_set(artist, "candle", codes={"1f56f": "candle"}).icon_name(comb) == "candle"


def test_captions_are_good_poor_or_wrong_in_the_configured_shares() -> None:
    artists = [f"artist {number}" for number in range(2000)]
    captions = [web_caption(BANANA, artist, [BANANA, BOOT]) for artist in artists]
    kinds = [caption_kind(BANANA.hexcode, artist) for artist in artists]
    good = [caption for caption in captions if "banana" in caption]
    wrong = [caption for caption in captions if "woman’s boot" in caption]
    poor = [caption for caption in captions if set(caption.split()) <= set(BANANA.tags)]
    assert len(good) + len(wrong) + len(poor) == len(captions)
    for kind, some in {"good": good, "wrong": wrong, "poor": poor}.items():
        assert [caption for caption, each in zip(captions, kinds, strict=True) if each == kind] == some
    shares = [round(100 * len(some) / len(captions)) for some in (good, poor)]
    assert shares == pytest.approx([GOOD, POOR], abs=3)
    assert len(set(good)) == len(set(wrong)) == len(PHRASES)
    assert {len(caption.split()) for caption in poor} == {1, 2, 3}
    assert all(caption.split() == [tag for tag in BANANA.tags if tag in caption.split()] for caption in poor)


def test_caption_is_fixed() -> None:
    concepts = [BANANA, BOOT]
    assert (
        web_caption(BANANA, "twemoji", concepts)
        == web_caption(BANANA, "twemoji", concepts[::-1])
        == "cartoon banana, flat design"
    )


def test_choices_do_not_depend_on_order() -> None:
    concepts = [Concept(f"{number:04X}", f"thing {number}", ("thing",), "objects") for number in range(861)]
    mixed = random.Random(1).sample(concepts, len(concepts))
    split, again = Split.of(concepts), Split.of(mixed)
    assert set(split.unseen) == set(again.unseen)
    assert (len(split.unseen), len(split.seen)) == (UNSEEN, 661)
    assert not set(split.unseen) & set(split.seen)
    assert shuffled(concepts, "a", str) == shuffled(mixed, "a", str) != shuffled(concepts, "b", str)


def test_tar_bytes_depend_only_on_members(tmp_path: Path) -> None:
    content = [("a.txt", b"one"), ("a.json", b"{}")]
    write_tar(tmp_path / "first.tar", content)
    write_tar(tmp_path / "folder" / "second.tar", content)
    first, second = (hashlib.sha256(path.read_bytes()).digest() for path in sorted(tmp_path.rglob("*.tar")))
    assert first == second
    assert not list(tmp_path.rglob(".*"))


def test_a_wrong_package_version_is_reported(tmp_path: Path) -> None:
    (tmp_path / "some").mkdir()
    (tmp_path / "some" / "package.json").write_text('{"version": "2.0.0"}')
    with pytest.raises(UserError, match=r"2\.0\.0, not 1\.0\.0.*npm install"):
        package_folder(tmp_path, "some", "1.0.0")
    with pytest.raises(UserError, match="no package other"):
        package_folder(tmp_path, "other", "1.0.0")


def test_only_concepts_of_the_pictured_groups_are_read(tmp_path: Path) -> None:
    (tmp_path / "meta").mkdir()
    (tmp_path / "en").mkdir()
    groups = {"0": "smileys-emotion", "4": "food-drink"}
    (tmp_path / "meta" / "groups.json").write_text(json.dumps({"groups": groups}))
    emoji = [
        {"hexcode": "B", "label": "pear", "tags": ["fruit"], "group": 4, "order": 2},
        {"hexcode": "A", "label": "apple", "tags": ["fruit"], "group": 4, "order": 1},
        {"hexcode": "C", "label": "grin", "tags": ["face"], "group": 0, "order": 0},
        {"hexcode": "D", "label": "regional indicator", "tags": []},
    ]
    (tmp_path / "en" / "data.json").write_text(json.dumps(emoji))
    assert [concept.label for concept in read_concepts(tmp_path)] == ["apple", "pear"]

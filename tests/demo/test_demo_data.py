"""The committed demo data: counts, no leak from training into evaluation, and sound files."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from collections import Counter, defaultdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from demo.concepts import GOOD, PHRASES, POOR

DEMO = Path(__file__).parents[2] / "demo"
SHARDS = sorted((DEMO / "shards").glob("*.tar"))
CORPUS = sorted((DEMO / "corpus" / "labels").glob("*.tar"))
SETS = {
    "emoji-861": (861, 1510),
    "emoji-seen-661": (661, 1158),
    "emoji-unseen-200": (200, 352),
}
TARS = sorted(DEMO.rglob("*.tar"))


@cache
def members(path: Path) -> list[tuple[str, bytes]]:
    with tarfile.open(path) as tar:
        return [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def samples(paths: list[Path]) -> dict[str, dict[str, bytes]]:
    found: dict[str, dict[str, bytes]] = {}
    for path in paths:
        for name, content in members(path):
            key, extension = name.split(".", 1)
            assert extension not in found.setdefault(key, {}), f"{name} is in two places"
            found[key][extension] = content
    return found


def facts(paths: list[Path]) -> list[dict[str, Any]]:
    return [json.loads(sample["json"]) for sample in samples(paths).values()]


def unseen() -> dict[str, str]:
    return dict(line.split("\t") for line in lines(DEMO / "unseen.txt"))


def test_training_artists() -> None:
    assert len(SHARDS) == 12
    assert Counter(fact["artist"] for fact in facts(SHARDS)) == {
        "twemoji": 661,
        "emojione": 498,
        "fxemoji": 283,
        "fluent": 654,
        "fluent-flat": 654,
    }
    assert {len(samples([shard])) for shard in SHARDS} == {229, 230}


def test_corpus_contains_all_drawings_of_two_training_artists() -> None:
    corpus, raw = facts(CORPUS), facts(SHARDS)
    drawn = {(fact["artist"], fact["hexcode"]) for fact in raw if fact["artist"] in ("twemoji", "fluent-flat")}
    assert {(fact["artist"], fact["hexcode"]) for fact in corpus} == drawn
    assert len(corpus) == len(drawn) == 1315
    assert all(fact["caption"] == fact["label"] for fact in corpus)
    assert len({fact["hexcode"] for fact in raw}) == 661


def test_captions_have_the_configured_shares() -> None:
    raw = facts(SHARDS)
    phrases = {fact["label"]: {phrase.format(fact["label"]) for phrase in PHRASES} for fact in raw}
    good = [fact["caption"] in phrases[fact["label"]] for fact in raw]
    every_phrase = set().union(*phrases.values())
    named = [fact["caption"] in every_phrase for fact in raw]
    assert 100 * sum(good) / len(raw) == pytest.approx(GOOD, abs=3)
    assert 100 * sum(named) / len(raw) == pytest.approx(100 - POOR, abs=3)


@pytest.mark.parametrize("paths", [SHARDS, CORPUS], ids=["shards", "corpus"])
def test_samples_are_complete(paths: list[Path]) -> None:
    for key, sample in samples(paths).items():
        assert set(sample) == {"jpg", "txt", "json"}
        fact = json.loads(sample["json"])
        assert fact["caption"] == sample["txt"].decode()
        assert fact["caption"].strip()
        assert fact["sha256"] == hashlib.sha256(sample["jpg"]).hexdigest()
        assert len(key) == 9
    assert len({fact["uid"] for fact in facts(paths)}) == len(samples(paths))


def test_no_unseen_concept_in_training() -> None:
    assert len(unseen()) == 200
    for fact in facts(SHARDS) + facts(CORPUS):
        assert fact["hexcode"] not in unseen()
        assert fact["label"] not in unseen().values()
    sets = {name: set(lines(DEMO / "evaluation" / name / "classnames.txt")) for name in SETS}
    assert sets["emoji-unseen-200"] == set(unseen().values())
    assert sets["emoji-seen-661"] == sets["emoji-861"] - sets["emoji-unseen-200"]


def thumbnail(image: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(image)).resize((24, 24)), dtype=np.float32)


def is_same_drawing(first: np.ndarray, second: np.ndarray) -> bool:
    """JPEG and WebP of one drawing differ by 1 gray level on average. The simplest moons of two artists differ by 4."""
    return float(np.abs(first - second).mean()) < 2.5


def test_no_test_artist_in_training() -> None:
    assert not {fact["artist"] for fact in facts(SHARDS) + facts(CORPUS)} & {"noto", "noto-v1"}
    trained: dict[str, list[np.ndarray]] = defaultdict(list)
    for sample in samples(SHARDS).values():
        trained[json.loads(sample["json"])["label"]].append(thumbnail(sample["jpg"]))
    names = lines(DEMO / "evaluation" / "emoji-861" / "classnames.txt")
    for sample in samples([evaluation_tar("emoji-861")]).values():
        label, drawing = names[int(sample["cls"])], thumbnail(sample["webp"])
        assert not any(is_same_drawing(drawing, other) for other in trained[label]), label


def test_a_leaked_test_drawing_would_be_detected() -> None:
    for sample in list(samples([evaluation_tar("emoji-861")]).values())[:50]:
        leaked = io.BytesIO()
        Image.open(io.BytesIO(sample["webp"])).save(leaked, "JPEG", quality=85)
        assert is_same_drawing(thumbnail(sample["webp"]), thumbnail(leaked.getvalue()))


def evaluation_tar(name: str) -> Path:
    return DEMO / "evaluation" / name / "test" / "0.tar"


@pytest.mark.parametrize(("name", "counts"), SETS.items())
def test_classification_set(name: str, counts: tuple[int, int]) -> None:
    folder = DEMO / "evaluation" / name
    classes, images = counts
    labels = [int(sample["cls"]) for sample in samples([evaluation_tar(name)]).values()]
    names = lines(folder / "classnames.txt")
    assert lines(folder / "test" / "nshards.txt") == ["1"]
    assert all("{c}" in template for template in lines(folder / "zeroshot_classification_templates.txt"))
    assert len(labels) == images
    assert set(labels) == set(range(classes))
    assert len(set(names)) == len(names) == classes


def test_subsets_agree_with_the_full_set() -> None:
    def named(name: str) -> set[tuple[bytes, str]]:
        names = lines(DEMO / "evaluation" / name / "classnames.txt")
        return {(sample["webp"], names[int(sample["cls"])]) for sample in samples([evaluation_tar(name)]).values()}

    assert named("emoji-seen-661") == named("emoji-861") - named("emoji-unseen-200")
    assert named("emoji-unseen-200") == named("emoji-861") - named("emoji-seen-661")


def test_retrieval_set() -> None:
    found = samples([evaluation_tar("emoji-retrieval")])
    captions = [sample["txt"].decode() for sample in found.values()]
    assert lines(DEMO / "evaluation" / "emoji-retrieval" / "dataset_type.txt") == ["retrieval"]
    assert captions == lines(DEMO / "evaluation" / "emoji-861" / "classnames.txt")
    assert all("\n" not in caption for caption in captions)


@pytest.mark.parametrize("path", TARS, ids=lambda path: str(path.relative_to(DEMO)))
def test_images_decode(path: Path) -> None:
    for name, content in members(path):
        if name.endswith((".jpg", ".webp")):
            image = Image.open(io.BytesIO(content))
            image.load()
            assert (image.mode, image.size) == ("RGB", (96, 96)), name
            assert np.asarray(image).min() < 220, f"{name} is blank"


@pytest.mark.parametrize("path", TARS, ids=lambda path: str(path.relative_to(DEMO)))
def test_tars_have_no_times_or_owners(path: Path) -> None:
    with tarfile.open(path) as tar:
        assert {(m.mtime, m.uid, m.gid, m.uname, m.gname) for m in tar} == {(0, 0, 0, "", "")}


def test_every_license_is_attributed() -> None:
    attribution = (DEMO / "ATTRIBUTION.md").read_text("utf-8")
    for artist, license in {(fact["artist"], fact["license"]) for fact in facts(SHARDS)}:
        row = next(line for line in attribution.splitlines() if line.startswith(f"| `{artist}` "))
        assert license in row
    assert "`noto`" in attribution and "`noto-v1`" in attribution


def test_data_stays_small() -> None:
    """A drawing of two sets counts once, as in a git pack.

    The data has 8.2 MB. The margin allows for other versions of zlib.
    """
    distinct = {content for path in TARS for _, content in members(path)}
    assert len(gzip.compress(b"".join(sorted(distinct)), 6)) < 9_000_000

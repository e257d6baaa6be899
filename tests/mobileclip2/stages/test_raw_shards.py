from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from demo.tars import write_tar
from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import ShardError
from tests.tiny import BAD_KEY, CLASSES, draw, encode


def test_valid_and_skipped_samples_are_listed(materialized: Callable[..., Pipeline]) -> None:
    (stored,) = materialized("raw_shards").read("raw_shards", "g00")
    assert (stored.manifest.samples, stored.manifest.skip_reasons) == (23, {"truncated-image": 1})
    (skipped,) = [file.name for file in stored.manifest.files if ".skipped." in file.name]
    assert [row["key"] for row in sidecar.read(stored.fetch(skipped)).to_pylist()] == [BAD_KEY]
    rows = sidecar.read(stored.fetch(skipped.replace(".skipped", ""))).to_pylist()
    assert [row["key"] for row in rows] == [f"{number:09d}" for number in (0, 2, 3, 4, 5)]
    assert {(row["image"], row["width"], row["height"]) for row in rows} == {("jpg", 48, 48)}
    assert rows[1]["caption"] == f"a {CLASSES[2]}"


def test_too_many_bad_samples_fail_the_stage(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("max_bad_share: 0.3", "max_bad_share: 0.1"))
    with pytest.raises(ShardError, match=r"00000\.tar: .*more than the accepted 10\.0%"):
        Pipeline(load(tiny)).materialize("raw_shards", "g00")


def test_a_filter_skips_samples_with_a_reason(tiny: Path) -> None:
    tiny.write_text(tiny.read_text().replace("max_bad_share: 0.3", "max_bad_share: 1\nfilters: {min_side: 49}"))
    done = Pipeline(load(tiny)).materialize("raw_shards", "g00")
    assert done.samples == 0 and sum(done.skip_reasons.values()) == 12


def captions(tiny: Path, keys: list[str] | None) -> list[str]:
    """Return the captions of the first shard."""
    values = yaml.safe_load(tiny.read_text())
    values["sources"][0] |= {"caption_keys": keys} if keys else {}
    tiny.write_text(yaml.safe_dump(values))
    pipeline = Pipeline(load(tiny))
    pipeline.materialize("raw_shards", "g00")
    (stored,) = pipeline.read("raw_shards", "g00")
    assert stored.manifest.declared.get("caption_keys") == ({"made": keys} if keys else None)
    return [row["caption"] for row in sidecar.read(stored.fetch(stored.manifest.files[0].name)).to_pylist()]


def test_the_first_valid_caption_of_several_fields_is_read(tiny: Path) -> None:
    image = encode(draw(CLASSES[0], "x"))
    fields = [
        {"re_caption": "rewritten", "caption": "alt"},
        {"re_caption": " ", "caption": "alt"},
        {"re_caption": None, "caption": "alt"},
        {"caption": "alt"},
    ]
    members = [("e.jpg", image), ("e.caption", b"a member"), ("e.txt", b"text")]
    for key, each in zip("abcd", fields, strict=True):
        members += [(f"{key}.jpg", image), (f"{key}.txt", b"text"), (f"{key}.json", json.dumps(each).encode())]
    for path in (tiny.parent / "shards").iterdir():
        path.unlink()
    write_tar(tiny.parent / "shards" / "00000.tar", members)
    assert captions(tiny, None) == ["text"] * 5
    assert captions(tiny, ["re_caption", "caption"]) == ["a member", "rewritten", "alt", "alt", "alt"]
    assert captions(tiny, ["caption", "txt"]) == ["a member", "alt", "alt", "alt", "alt"]
    tiny.write_text(tiny.read_text().replace("max_bad_share: 0.3", "max_bad_share: 1"))
    assert captions(tiny, ["re_caption"]) == ["rewritten"]
    skipped = Pipeline(load(tiny)).read("raw_shards", "g00")[0].manifest.skip_reasons
    assert skipped == {"empty-caption": 1, "missing-caption": 3}

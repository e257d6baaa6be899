from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.errors import ShardError
from tests.tiny import BAD_KEY, CLASSES


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

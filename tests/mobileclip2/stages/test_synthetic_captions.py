from __future__ import annotations

from collections.abc import Callable

from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline


def test_each_image_has_the_captions_of_its_captioner(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("synthetic_captions/first")
    (raw,) = pipeline.read("raw_shards", "g00")
    captions = pipeline.read("synthetic_captions/first", "g00")
    assert [stored.manifest.part for stored in captions] == ["caption-0", "caption-1"]
    for stored in captions:
        failed = 0
        for file in stored.manifest.files:
            if ".skipped." in file.name:
                continue
            rows = sidecar.read(stored.fetch(file.name), sidecar.CAPTIONS).to_pylist()
            keys = sidecar.read(raw.fetch(file.name)).column("key").to_pylist()
            assert [row["key"] for row in rows] == keys
            failed += sum(not row["caption"] for row in rows)
        assert failed == stored.manifest.skipped

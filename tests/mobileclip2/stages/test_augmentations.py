from __future__ import annotations

from collections.abc import Callable

from mobileclip2.config.augmentation import Augmentation
from mobileclip2.data import sidecar
from mobileclip2.data.augmentation import sample_view
from mobileclip2.engine.pipeline import Pipeline


def test_each_view_of_each_image_is_drawn_from_its_key(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("augmentations")
    views = pipeline.read("augmentations", "g00")
    assert [stored.manifest.part for stored in views] == ["view-0", "view-1"]
    for number, stored in enumerate(views):
        assert stored.manifest.samples == 23 and len(stored.manifest.files) == 4
        for file in stored.manifest.files:
            for row in sidecar.read(stored.fetch(file.name), sidecar.VIEWS).to_pylist():
                expected = sample_view(Augmentation(), 1, row["key"], number, 48, 48)
                assert row["view"] == expected.to_json()


def test_an_added_view_does_not_recompute_the_others(tiny) -> None:
    from mobileclip2.config.profile import load

    pipeline = Pipeline(load(tiny))
    pipeline.materialize("raw_shards", "g00")
    before = pipeline.materialize("augmentations", "g00")
    tiny.write_text(tiny.read_text().replace("views: {count: 2", "views: {count: 3"))
    after = Pipeline(load(tiny)).materialize("augmentations", "g00")
    assert (before.computed, after.computed) == (["view-0", "view-1"], ["view-2"])

from __future__ import annotations

from collections.abc import Callable

from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from tests.tiny import CLASSES


def test_a_corpus_is_validated_like_source_shards(materialized: Callable[..., Pipeline]) -> None:
    (stored,) = materialized("caption_corpus/clean").read("caption_corpus/clean")
    (file,) = stored.manifest.files
    captions = sidecar.read(stored.fetch(file.name)).column("caption").to_pylist()
    assert captions == [f"a {label} on a grey ground" for label in CLASSES]
    assert stored.manifest.group is None and stored.manifest.samples == len(CLASSES)

from __future__ import annotations

from collections.abc import Callable

from mobileclip2.data import sidecar
from mobileclip2.data.reinforced_format import decode
from mobileclip2.data.tar import read_samples
from mobileclip2.engine.pipeline import Pipeline


def test_a_tar_joins_captions_views_and_embeddings_by_key(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("reinforced_dataset")
    (stored,) = pipeline.read("reinforced_dataset", "g00")
    assert stored.manifest.facts == {"teachers": ["wide", "narrow"], "teacher_dims": {"wide": 24, "narrow": 8}}
    assert stored.manifest.samples == 23
    names = [file.name for file in stored.manifest.files if file.name.endswith(".tar")]
    assert len(names) == 4
    with stored.fetch(names[0]).open("rb") as file:
        samples = [decode(raw.members, raw.key, names[0]) for raw in read_samples(file, names[0])]
    (raw,) = pipeline.read("raw_shards", "g00")
    table = sidecar.read(raw.fetch(names[0].replace(".tar", ".parquet")))
    assert [sample.key for sample in samples] == table.column("key").to_pylist()
    assert [sample.caption for sample in samples] == table.column("caption").to_pylist()
    for sample in samples:
        assert sample.image_emb.shape == (2, 24 + 8) and sample.text_emb.shape == (1, 24 + 8)
        assert len(sample.views) == 2 and set(sample.captions) == {"syn_text_first", "syn_text_second"}

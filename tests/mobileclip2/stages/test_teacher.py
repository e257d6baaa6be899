from __future__ import annotations

from collections.abc import Callable

import torch
from safetensors.torch import load_file

from mobileclip2.engine.lineage import LINEAGE, read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.models.build import CONFIG, WEIGHTS


def test_a_pretrained_teacher_is_stored_with_its_weights_unchanged(materialized: Callable[..., Pipeline]) -> None:
    pipeline = materialized("teacher/narrow")
    (stored,) = pipeline.read("teacher/narrow")
    assert {file.name for file in stored.manifest.files} == {CONFIG, WEIGHTS}
    assert read_lineage(stored.fetch(LINEAGE)).asset == "teacher/narrow"
    assert stored.manifest.facts == {"embed_dim": 8}
    given = load_file(pipeline.profile.locate("weights/narrow.safetensors"))
    found = load_file(stored.fetch(WEIGHTS))
    assert given.keys() == found.keys() and all(torch.equal(given[name], found[name]) for name in given)

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from safetensors.torch import load_file

from mobileclip2.captioners.load import SMALL, load_captioner
from mobileclip2.engine.lineage import LINEAGE, read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.models.build import CONFIG, WEIGHTS


def test_a_small_captioner_is_trained_and_stored_with_all_files(materialized: Callable[..., Pipeline]) -> None:
    (stored,) = materialized("captioner/first").read("captioner/first")
    assert {file.name for file in stored.manifest.files} == {CONFIG, WEIGHTS, "metrics.jsonl"}
    assert read_lineage(stored.fetch(LINEAGE)).asset == "captioner/first"
    assert stored.manifest.facts == {"embed_dim": 16, "samples": 4 * 8}
    steps = [json.loads(line)["step"] for line in stored.fetch("metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4]
    assert SMALL in json.loads(stored.fetch(CONFIG).read_text())
    captioner = load_captioner(stored.fetch(CONFIG), stored.fetch(WEIGHTS))
    assert captioner.embed_images(torch.zeros(1, 3, 32, 32)).shape == (1, 16)


def test_training_from_a_base_changes_its_text_decoder_and_keeps_its_trunk(
    materialized: Callable[..., Pipeline],
) -> None:
    pipeline = materialized("captioner/second")
    before, after = (load_file(pipeline.read(f"captioner/{name}")[0].fetch(WEIGHTS)) for name in ("first", "second"))
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert any(name.startswith("text_decoder.") for name in changed)
    assert not any("trunk" in name for name in changed) and any("trunk" in name for name in before)

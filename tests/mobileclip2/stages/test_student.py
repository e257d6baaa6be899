from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from mobileclip2.config.profile import load
from mobileclip2.engine.lineage import LINEAGE, read_lineage
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.models.build import CONFIG, WEIGHTS
from mobileclip2.models.build import load as load_model


@pytest.mark.parametrize("name", ["pupil", "plain"])
def test_a_trained_student_is_stored_complete(materialized: Callable[..., Pipeline], name: str) -> None:
    (stored,) = materialized(f"student/{name}").read(f"student/{name}")
    assert {file.name for file in stored.manifest.files} == {CONFIG, WEIGHTS, "metrics.jsonl"}
    assert read_lineage(stored.fetch(LINEAGE)).asset == f"student/{name}"
    model = load_model(stored.fetch(CONFIG), stored.fetch(WEIGHTS))
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    assert stored.manifest.facts == {"embed_dim": 16, "parameters": parameters, "samples": 4 * 8}


def test_evaluations_during_training_are_recorded(materialized: Callable[..., Pipeline]) -> None:
    (stored,) = materialized("student/pupil").read("student/pupil")
    records = [json.loads(line) for line in stored.fetch("metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert [record["step"] for record in records if "shapes/acc1" in record] == [4]


def test_a_pretrained_student_keeps_its_weights(tiny: Path) -> None:
    text = tiny.read_text()
    start, end = text.index("  - name: wide\n"), text.index("  - name: narrow\n")
    given = text[start:end].replace("wide", "given", 1).replace("    logit_scale: 50\n", "").replace("&text ", "")
    tiny.write_text(text.replace("evaluation:\n", f"{given}evaluation:\n"))
    pipeline = Pipeline(load(tiny))
    pipeline.materialize("student/given")
    (stored,) = pipeline.read("student/given")
    weights = load_file(tiny.parent / "weights" / "wide.safetensors")
    found = load_file(stored.fetch(WEIGHTS))
    assert all(torch.equal(found[name], weights[name]) for name in weights)
    assert "samples" not in stored.manifest.facts and stored.manifest.facts["embed_dim"] == 24

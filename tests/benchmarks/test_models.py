"""The table of models on one architecture of each tokenizer class and tower family of open_clip."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import models

ROOT = Path(__file__).parents[2]
FAMILIES = (
    "RN50",
    "convnext_tiny",
    "EVA02-B-16",
    "ViT-B-16-SigLIP",
    "ViT-B-16-SigLIP2",
    "ViT-L-14-CLIPA",
    "ViT-H-14-worldwide",
    "ViT-L-14-worldwide",
    "PE-Core-T-16-384",
    "coca_ViT-B-32",
    "coca_roberta-ViT-B-32",
    "xlm-roberta-base-ViT-B-32",
    "mt5-base-ViT-B-32",
    "nllb-clip-base",
)


@pytest.mark.long
def test_every_family_passes():
    command = [sys.executable, "-m", "benchmarks", "models", "--json", "--full-size", "0"]
    only = f"^({'|'.join(FAMILIES)})$"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, "--only", only], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    numbers = json.loads(done.stdout)
    assert {row["name"] for row in numbers["architectures"]} == set(FAMILIES)
    assert {row["size"] for row in numbers["architectures"]} == {"small"}
    assert {pair["by_tag"] for pair in numbers["pairs"] if pair["fits"]} == {"as published"}
    shown = models.show(numbers)
    assert f"| all | | | {len(FAMILIES)} |{f' {len(FAMILIES)} |' * 5}" in shown


def row(**verdicts: str) -> dict[str, str | bool]:
    return {"name": "a", "image_tower": "vit", "text_tower": "t", "tokenizer": "CLIP", "decoder": False} | {
        "size": "small",
        **dict.fromkeys(models.CHECKS, "yes"),
        **verdicts,
    }


def pair(**verdicts: str | bool) -> dict[str, str | bool]:
    passed = dict.fromkeys(models.ORIGINS, "as published")
    return {"name": "a", "tag": "t", "fits": True, **passed, **verdicts}


@pytest.mark.parametrize(
    ("rows", "pairs", "holds"),
    [
        ([row()], [pair()], True),
        ([row(), row(loaded="OSError: gone; try again")], [pair()], False),
        ([row()], [pair(fits=False, by_tag="refused: no")], True),
        ([row()], [pair(fits=False)], False),
        ([row()], [pair(by_tag="refused: no")], False),
        ([row()], [pair(by_path="refused: differ")], True),
        ([row()], [pair(by_path="WRONG: activation")], False),
    ],
)
def test_a_wrong_verdict_fails_the_command(rows, pairs, holds):
    assert models.holds({"architectures": rows, "pairs": pairs}) == holds


def test_reasons_are_shown_with_names_and_without_remedies():
    shown = models.show({"architectures": [row(stored="OSError: a is gone; try again")], "pairs": [pair()]})
    assert "Architectures: 1: stored: OSError: … is gone: a" in shown
    assert "| vit | t | CLIP | 1 | 1 | 0 | 1 | 1 | 1 |" in shown

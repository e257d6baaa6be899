"""The README's result block, picture and claims match the stored output of the benchmark."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

from benchmarks._reinforcement_bars import bars
from benchmarks.reinforcement import KINDS, SEEDS, profile, show

ROOT = Path(__file__).parents[2]
STORED = json.loads((ROOT / "benchmarks" / "results" / "reinforcement.json").read_text())
README = (ROOT / "README.md").read_text()


def test_the_readme_has_the_lines_of_the_stored_output():
    assert textwrap.indent(show(STORED), "    ") in README


def test_the_picture_is_drawn_from_the_stored_output():
    assert (ROOT / "docs" / "images" / "result.svg").read_text() == bars(STORED)


def test_the_claims_hold():
    lowest = {kind: low for kind, (_, low, _) in STORED["difference"].items()}
    assert set(lowest) == set(KINDS) - {"reinforced"}
    assert min(lowest.values()) > 0
    assert min(STORED["top1"]["reinforced"]) > 2 * max(STORED["top1"]["plain"])
    assert min(STORED["top1"]["plain_corpus"]) > max(STORED["top1"]["plain"])
    assert max(STORED["share_of_samples_to_plain"]) <= 0.2


def test_every_kind_is_trained_with_every_seed_on_its_own_data():
    students = {student.name: student for student in profile().students}
    assert set(students) == {f"{kind}_{seed}" for kind in KINDS for seed in SEEDS}
    assert len({(s.training.steps, s.training.batch, s.training.warmup) for s in students.values()}) == 1
    assert {students[f"{kind}_0"].data for kind in KINDS} == {"reinforced", "raw"}
    assert students["plain_corpus_0"].corpora and not students["plain_0"].corpora
    assert students["reinforced_0"].loss.captioners != students["pretrained_captions_0"].loss.captioners

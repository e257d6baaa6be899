from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.config.evaluation_tasks import TASKS
from mobileclip2.data.image import decode as decode_image
from mobileclip2.data.indexed_tar import IndexedTar
from mobileclip2.evaluation.sets import EvaluationSet
from pipelines.rehearsal.data import LABELS, QUESTION_SIZES, write_set, write_shards


@pytest.mark.parametrize("name", [*TASKS, "my-own-set"])
def test_every_set_of_the_suite_is_written_in_its_published_layout(tmp_path: Path, name: str) -> None:
    write_set(tmp_path / "set", name)
    written = EvaluationSet(name, tmp_path / "set")
    written.check()
    samples = list(written.samples())
    assert not [sample.fault for sample in samples if sample.fault]
    assert len(samples) == (sum(QUESTION_SIZES) if written.kind == "association" else len(LABELS))
    assert all(decode_image(sample.image).size == (64, 64) for sample in samples)


def test_shards_hold_pairs_and_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_shards(tmp_path / folder, 2, 5)
    files = [sorted((tmp_path / folder).glob("*.tar")) for folder in ("one", "two")]
    assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
    tars = [IndexedTar(file) for file in files[0]]
    assert tars[0].keys() + tars[1].keys() == [f"{number:09d}" for number in range(10)]
    assert tars[0].members(1)["txt"] == f"a drawing of a {LABELS[1]}".encode()

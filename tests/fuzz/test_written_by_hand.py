"""Profiles, results, captions, tables and evaluation sets."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from demo.tars import write_tar
from mobileclip2.captioners import sentences
from mobileclip2.config.profile import load
from mobileclip2.data.importing.tables import Table
from mobileclip2.evaluation import results
from mobileclip2.evaluation.sets import EvaluationSet
from tests.fuzz.harness import fuzz
from tests.pictures import jpeg


def test_profile(tmp_path: Path) -> None:
    path = tmp_path / "fuzzed.yaml"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        load(path)

    fuzz("profile", read)


def test_results() -> None:
    fuzz("results", lambda data: results.loads(data.decode(errors="replace"), "fuzzed.jsonl"))


def test_sentences() -> None:
    def read(data: bytes) -> None:
        text = data.decode(errors="replace")
        assert len(sentences.first_sentence(text)) <= len(text)
        sentences.degenerate(text)

    fuzz("sentences", read)


@pytest.mark.parametrize("ending", ["csv", "tsv", "json", "jsonl", "parquet"])
def test_table(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"fuzzed.{ending}"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        list(Table(path))

    fuzz(f"table-{ending}", read)


@pytest.mark.parametrize("name", ["classnames.txt", "zeroshot_classification_templates.txt", "dataset_type.txt"])
def test_texts_of_an_evaluation_set(tmp_path: Path, name: str) -> None:
    (tmp_path / "test").mkdir()
    write_tar(tmp_path / "test" / "0.tar", [("s0.jpg", jpeg(1)), ("s0.cls", b"0")])
    shutil.copy(next((Path(__file__).parent / "corpus" / "classnames").iterdir()), tmp_path / "classnames.txt")
    corpus = {"classnames.txt": "classnames", "dataset_type.txt": "dataset_type"}.get(name, "templates")

    def read(data: bytes) -> None:
        (tmp_path / name).write_bytes(data)
        read_set(tmp_path)

    fuzz(corpus, read)


def test_tar_of_an_evaluation_set(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "classnames.txt").write_text("red square\ngreen circle\n")

    def read(data: bytes) -> None:
        (tmp_path / "test" / "0.tar").write_bytes(data)
        read_set(tmp_path)

    fuzz("evaluation-tar", read)


def read_set(path: Path) -> None:
    opened = EvaluationSet("fuzzed", path)
    if opened.kind == "classification":
        assert opened.classnames and opened.templates
    list(opened.samples())

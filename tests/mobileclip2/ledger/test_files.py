from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.ledger import files
from mobileclip2.ledger.files import delete_unknown, write_asset, write_params, write_text


@pytest.fixture
def pipeline(materialized: Callable[..., Pipeline], tmp_path: Path) -> Pipeline:
    """Return a copy of a materialized profile with a ledger, which tests can change."""
    template = materialized("evaluation/pupil").profile
    folder = Path(shutil.copytree(template.folder, tmp_path / "tiny"))
    profile = folder / "tiny.yaml"
    profile.write_text(f"{profile.read_text()}\nledger: .\n")
    return Pipeline(load(profile))


def written(pipeline: Pipeline, key: str) -> Path:
    write_asset(pipeline, pipeline.graph[key])
    return Path(pipeline.profile.folder) / "ledger" / "tiny"


def test_an_asset_has_a_line_for_each_output(pipeline: Pipeline) -> None:
    text = (written(pipeline, "augmentations") / "augmentations.json").read_text()
    outputs = json.loads(text)["outputs"]
    assert [(output["group"], output["part"]) for output in outputs] == [("g00", "view-0"), ("g00", "view-1")]
    assert len(text.splitlines()) == 2 + len(outputs)
    stored = pipeline.read("augmentations", "g00")
    assert [output["data_version"] for output in outputs] == [each.manifest.data_version for each in stored]
    for output, each in zip(outputs, stored, strict=True):
        folder = Path(pipeline.storage.url) / output["path"]
        assert all((folder / file.name).read_bytes() for file in each.manifest.files)


def test_a_student_has_curves_and_a_copy_of_its_checkpoint(pipeline: Pipeline) -> None:
    folder = written(pipeline, "student/pupil")
    with (folder / "curves" / "student" / "pupil.loss.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["1", "2", "3", "4"]
    assert (folder / "curves" / "student" / "pupil.accuracy.csv").read_text().startswith("step,shapes\n4,")
    checkpoint = Path(pipeline.profile.folder) / "checkpoints" / "pupil"
    (stored,) = pipeline.read("student/pupil")
    copy = checkpoint / "open_clip_model.safetensors"
    assert copy.read_bytes() == stored.fetch(copy.name).read_bytes() and not copy.is_symlink()
    assert {path.name for path in checkpoint.iterdir()} == {
        "lineage.json",
        "open_clip_config.json",
        "open_clip_model.safetensors",
    }


def test_long_curves_keep_their_last_step(pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "MAX_ROWS", 3)
    with (written(pipeline, "student/pupil") / "curves" / "student" / "pupil.loss.csv").open() as file:
        assert [row["step"] for row in csv.DictReader(file)] == ["2", "4"]


def test_an_evaluation_has_the_metrics_of_each_set(pipeline: Pipeline) -> None:
    metrics = json.loads((written(pipeline, "evaluation/pupil") / "metrics" / "pupil.json").read_text())
    assert metrics["shapes"]["acc1"] == metrics["shapes"]["main_metric"]


def test_files_of_an_asset_that_is_not_current_are_deleted(pipeline: Pipeline) -> None:
    folder = written(pipeline, "evaluation/pupil")
    assert pipeline.is_current("evaluation/pupil")
    pipeline.storage.delete_folder("evaluation/pupil")
    pipeline.forget()
    assert not pipeline.is_current("evaluation/pupil")
    written(pipeline, "evaluation/pupil")
    assert not list(folder.rglob("pupil.json"))


def test_files_of_other_assets_are_deleted(pipeline: Pipeline) -> None:
    folder = written(pipeline, "augmentations")
    write_params(pipeline)
    (folder / "student").mkdir()
    (folder / "student" / "former.json").write_text("{}")
    delete_unknown(pipeline)
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == {"augmentations.json", "params.json"}


def test_an_unchanged_file_keeps_its_time(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b.json"
    write_text(path, "one")
    before = path.stat()
    write_text(path, "one")
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    write_text(path, "two")
    assert path.read_text() == "two"

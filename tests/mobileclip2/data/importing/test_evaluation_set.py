"""An imported evaluation set is read by the evaluators as it is."""

from __future__ import annotations

import pytest

from mobileclip2.data.importing.evaluation_set import import_evaluation_set
from mobileclip2.data.importing.folders import ClassFolders
from mobileclip2.data.importing.tables import Table
from mobileclip2.errors import UserError
from mobileclip2.evaluation.sets import EvaluationSet
from tests.pictures import jpeg


def test_class_folders_become_a_zero_shot_set(tmp_path):
    for name in ("golden_retriever", "cat"):
        (tmp_path / "classes" / name).mkdir(parents=True)
        for number in range(3):
            (tmp_path / "classes" / name / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "classes" / "loose.jpg").write_bytes(jpeg(9))
    imported = import_evaluation_set(ClassFolders(tmp_path / "classes"), tmp_path / "mine")
    assert (imported.samples, dict(imported.skipped)) == (6, {"no-class": 1})
    written = EvaluationSet("mine", tmp_path / "mine")
    written.check()
    assert (written.kind, written.classnames) == ("classification", ["cat", "golden retriever"])
    assert [sample.target for sample in written.samples()] == [0, 0, 0, 1, 1, 1]


def test_a_table_of_captions_becomes_a_retrieval_set(tmp_path):
    for number in range(2):
        (tmp_path / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "t.csv").write_text("image,caption\n0.jpg,one\n1.jpg,two\n0.jpg,three\n")
    import_evaluation_set(Table(tmp_path / "t.csv"), tmp_path / "mine")
    written = EvaluationSet("mine", tmp_path / "mine")
    written.check()
    assert written.kind == "retrieval"
    assert [sample.captions for sample in written.samples()] == [("one", "three"), ("two",)]


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "t.csv").write_text("image,caption\n0.jpg,one\n")
    with pytest.raises(UserError, match="not empty"):
        import_evaluation_set(Table(tmp_path / "t.csv"), tmp_path)


def test_a_killed_import_leaves_nothing_behind(tmp_path, monkeypatch):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "t.csv").write_text("image,caption\n0.jpg,one\n")
    with monkeypatch.context() as patched:

        def stop(image):
            raise KeyboardInterrupt

        patched.setattr("mobileclip2.data.importing.evaluation_set.read_picture", stop)
        with pytest.raises(KeyboardInterrupt):
            import_evaluation_set(Table(tmp_path / "t.csv"), tmp_path / "mine")
    assert not (tmp_path / "mine").exists()
    assert import_evaluation_set(Table(tmp_path / "t.csv"), tmp_path / "mine").samples == 1

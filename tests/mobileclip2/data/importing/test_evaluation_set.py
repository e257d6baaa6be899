"""The evaluators read an imported evaluation set without conversion."""

from __future__ import annotations

import pytest

from mobileclip2.data.importing.evaluation_set import import_evaluation_set
from mobileclip2.data.importing.folders import class_folders
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
    imported = import_evaluation_set(class_folders(tmp_path / "classes"), tmp_path / "mine")
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


@pytest.fixture
def write(tmp_path):
    """Return a function that imports a table of pictures as an evaluation set, and opens it."""

    def imported_and_opened(header, *lines):
        for name in ("a", "b", "c"):
            (tmp_path / f"{name}.jpg").write_bytes(jpeg(ord(name)))
        (tmp_path / "t.csv").write_text("\n".join((header, *lines)))
        imported = import_evaluation_set(Table(tmp_path / "t.csv"), tmp_path / "mine")
        written = EvaluationSet("mine", tmp_path / "mine")
        written.check()
        return imported, written

    return imported_and_opened


@pytest.mark.parametrize(
    ("labels", "classes", "targets", "skipped"),
    [
        (('"tabby\ncat"', "dog", "zebra"), ["dog", "tabby cat", "zebra"], [1, 0, 2], {}),
        (("cat ", "cat", "zebra"), ["cat", "zebra"], [0, 0, 1], {}),
        (("Café", "cafe\u0301", "zebra"), ["Café", "zebra"], [0, 0, 1], {}),
        (("", "dog", "zebra"), ["dog", "zebra"], [0, 1], {"no-class": 1}),
        (("nan", "dog", "['a']"), ["dog"], [0], {"no-class": 2}),
    ],
)
def test_class_indices_agree_with_the_lines_of_class_names(write, labels, classes, targets, skipped):
    imported, written = write("file,label", *(f"{name}.jpg,{label}" for name, label in zip("abc", labels, strict=True)))
    assert (written.classnames, dict(imported.skipped)) == (classes, skipped)
    assert [sample.target for sample in written.samples()] == targets


def test_a_picture_with_two_classes_is_left_out(write):
    imported, written = write(
        "file,label", "a.jpg,cat", "a.jpg,dog", "b.jpg,dog", "b.jpg,dog", "c.jpg,cat", "a.jpg,cat"
    )
    assert (imported.rows, imported.samples, dict(imported.skipped)) == (6, 2, {"conflicting-class": 1})
    assert [sample.target for sample in written.samples()] == [1, 0]


def test_captions_that_evaluation_refuses_are_left_out(write):
    lines = ("a.jpg,nan", "a.jpg,a cat", "b.jpg,\u200b", "c.jpg,\"['a', 'dog']\"")
    imported, written = write("file,caption", *lines)
    assert dict(imported.skipped) == {"placeholder-caption": 1, "empty-caption": 1, "literal-caption": 1}
    assert [sample.captions for sample in written.samples()] == [("a cat",)]


def test_a_folder_with_files_is_refused(tmp_path):
    (tmp_path / "0.jpg").write_bytes(jpeg(0))
    (tmp_path / "t.csv").write_text("image,caption\n0.jpg,one\n")
    with pytest.raises(UserError, match="not empty"):
        import_evaluation_set(Table(tmp_path / "t.csv"), tmp_path)


def test_a_killed_import_leaves_no_folder(tmp_path, monkeypatch):
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

"""Data sets that the package ``datasets`` saved to disk."""

from __future__ import annotations

import sys

import datasets
import pytest

from mobileclip2.data.importing.hugging_face import saved_dataset
from mobileclip2.data.importing.open_rows import open_rows
from mobileclip2.data.importing.tables import Columns
from mobileclip2.errors import MissingExtra, UserError
from tests.pictures import jpeg, picture


@pytest.fixture
def captioned(tmp_path):
    """Return the folder of a data set with pictures and captions."""
    rows = {"image": [picture(0), picture(1)], "text": [["one", "uno"], ["two"]]}
    features = datasets.Features({"image": datasets.Image(), "text": datasets.Sequence(datasets.Value("string"))})
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(str(tmp_path / "captioned"))
    return tmp_path / "captioned"


@pytest.fixture
def classes(tmp_path):
    """Return the folder of a data set with two splits of pictures and classes."""
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    rows = {"photo": [str(tmp_path / "a.jpg")], "label": [1]}
    features = datasets.Features({"photo": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    data = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=data, test=data).save_to_disk(str(tmp_path / "classes"))
    return tmp_path / "classes"


def test_pictures_keep_their_stored_bytes(captioned):
    rows = list(open_rows(captioned))
    assert [row.captions for row in rows] == [("one", "uno"), ("two",)]
    assert all(isinstance(row.image, bytes) and not row.fault for row in rows)


def test_class_numbers_become_names(classes):
    (row,) = saved_dataset(classes, split="train")
    assert (row.image, row.label) == (jpeg(0), "dog")


@pytest.mark.parametrize("captions", [{}, {"text": ["a cat"]}])
def test_a_picture_without_class_stays_without_class(tmp_path, captions):
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    features |= {name: datasets.Value("string") for name in captions}
    data = datasets.Dataset.from_dict(
        {"image": [picture(0)], "label": [-1], **captions}, features=datasets.Features(features)
    )
    data.save_to_disk(str(tmp_path))
    (row,) = saved_dataset(tmp_path)
    assert row.label is None and (row.fault and row.fault.reason) == (None if captions else "no-class")


@pytest.mark.parametrize("name", ["state.json", "dataset_info.json", "data-00000-of-00001.arrow"])
def test_a_damaged_data_set_is_reported(captioned, name):
    (captioned / name).write_bytes((captioned / name).read_bytes()[:20])
    with pytest.raises(UserError, match="captioned: the data set is damaged"):
        list(saved_dataset(captioned))


def test_a_split_is_chosen_by_name(classes):
    with pytest.raises(UserError, match="it has the splits train, test; choose one with --split"):
        list(saved_dataset(classes))
    with pytest.raises(UserError, match="there is no split 'val'; it has train, test"):
        list(saved_dataset(classes, split="val"))


def test_an_unknown_column_is_reported(captioned):
    with pytest.raises(UserError, match="there is no column 'txt'; did you mean 'text'"):
        list(saved_dataset(captioned, Columns(captions=("txt",))))


def test_the_missing_package_is_reported(captioned, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="'mobileclip2\\[datasets\\]'"):
        list(saved_dataset(captioned))

"""Data sets that the package ``datasets`` saved to disk."""

from __future__ import annotations

import sys

import datasets
import pytest

from mobileclip2.data.importing.hugging_face import HuggingFaceDataset
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


def test_pictures_stay_as_they_are_stored(captioned):
    rows = list(open_rows(captioned))
    assert [row.captions for row in rows] == [("one", "uno"), ("two",)]
    assert all(isinstance(row.image, bytes) and not row.fault for row in rows)
    assert open_rows(captioned).identity == HuggingFaceDataset(captioned).identity


def test_numbers_of_classes_become_names(classes):
    (row,) = HuggingFaceDataset(classes, split="train")
    assert (row.image, row.label) == (jpeg(0), "dog")


def test_a_split_is_chosen_by_name(classes):
    with pytest.raises(UserError, match="it has the splits train, test; choose one with --split"):
        list(HuggingFaceDataset(classes))
    with pytest.raises(UserError, match="there is no split 'val'; it has train, test"):
        list(HuggingFaceDataset(classes, split="val"))


def test_a_column_is_named(captioned):
    with pytest.raises(UserError, match="there is no column 'txt'; did you mean 'text'"):
        list(HuggingFaceDataset(captioned, Columns(captions=("txt",))))


def test_the_missing_package_is_named(captioned, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="'mobileclip2\\[datasets\\]'"):
        list(HuggingFaceDataset(captioned))

"""Data sets of a stand-in for the package ``datasets``, which the tests do not install."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest

from mobileclip2.data.importing.hugging_face import HuggingFaceDataset
from mobileclip2.errors import MissingExtra, UserError


class Feature:
    def __init__(self, **fields: Any) -> None:
        self.__dict__.update(fields)


class Image(Feature): ...


class ClassLabel(Feature): ...


class Data(list[dict[str, Any]]):
    _fingerprint = "f"
    features: ClassVar = {"photo": Image(), "label": ClassLabel(names=["cat", "dog"])}
    column_names: ClassVar = ["photo", "label"]

    def cast_column(self, name: str, feature: Feature) -> Data:
        assert name == "photo" and feature.decode is False
        return self


class DatasetDict(dict[str, Data]): ...


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch) -> DatasetDict:
    """Return the splits that the stand-in loads from every folder."""
    rows = Data([{"photo": {"bytes": b"one", "path": None}, "label": 1}])
    splits = DatasetDict(train=rows, test=rows)
    module = SimpleNamespace(
        DatasetDict=DatasetDict, Image=Image, ClassLabel=ClassLabel, load_from_disk=lambda path: splits
    )
    monkeypatch.setitem(sys.modules, "datasets", module)
    return splits


def test_numbers_of_classes_become_names(stored: DatasetDict, tmp_path: Path) -> None:
    (row,) = HuggingFaceDataset(tmp_path, split="train")
    assert (row.image, row.label, row.fault) == (b"one", "dog", None)


def test_a_split_is_chosen_by_name(stored: DatasetDict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="it has the splits train, test; choose one with --split"):
        list(HuggingFaceDataset(tmp_path))
    with pytest.raises(UserError, match="there is no split 'val'; it has train, test"):
        list(HuggingFaceDataset(tmp_path, split="val"))
    del stored["test"]
    assert len(list(HuggingFaceDataset(tmp_path))) == 1


def test_without_the_package_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtra, match="datasets"):
        list(HuggingFaceDataset(tmp_path))

from __future__ import annotations

import copy

import pytest
from pydantic import BaseModel

from mobileclip2.asset_key import AssetKey, Partition, SliceKey


@pytest.mark.parametrize(
    ("path", "stage", "name", "kind"),
    [
        (("raw_shards",), "raw_shards", "", ""),
        (("student", "pupil"), "student", "pupil", ""),
        (("teacher_embeddings", "wide", "image"), "teacher_embeddings", "wide", "image"),
    ],
)
def test_a_key_is_a_string_with_components(path: tuple[str, ...], stage: str, name: str, kind: str) -> None:
    key = AssetKey.of(*path)
    assert key == AssetKey("/".join(path)) == "/".join(path)
    assert (key.path, key.stage, key.name, key.kind) == (path, stage, name, kind)
    assert {key: 1}["/".join(path)] == 1
    assert copy.deepcopy(key).path == path


def test_a_model_parses_a_key_and_writes_the_same_bytes() -> None:
    class Read(BaseModel):
        asset: AssetKey

    text = '{"asset":"teacher_embeddings/wide/image"}'
    read = Read.model_validate_json(text)
    assert read.asset.kind == "image"
    assert read.model_dump_json() == text


def test_messages_and_lineages_name_the_group() -> None:
    views, student = AssetKey("augmentations"), AssetKey("student/pupil")
    assert f"{Partition(views, 'g00')} {Partition(student, None)}" == "augmentations [g00] student/pupil"
    assert str(SliceKey(views, "view-0", "g00")) == "augmentations:view-0@g00"
    assert str(SliceKey(student, "whole", None)) == "student/pupil:whole"

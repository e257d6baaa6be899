from __future__ import annotations

import json

import pytest

from mobileclip2.config.filters import Filters
from mobileclip2.data.tar import RawSample
from mobileclip2.data.validate_reinforced import ImageSample, complete, digest, teachers_of, validate_reinforced
from mobileclip2.errors import ShardError
from tests.mobileclip2.stages.published_shards import CAPTIONS, DIMS, VIEWS, members, picture

TEACHERS: dict[str, int | None] = {"openai": DIMS[0], "datacomp": DIMS[1]}


def test_a_row_contains_the_image_location_and_the_sample_contents() -> None:
    parts = {**picture(0), **members(0)}
    inside, _ = validate_reinforced([RawSample("k", parts)], TEACHERS, Filters(), "s")
    joined, skipped = validate_reinforced(
        [RawSample("k", members(0))], TEACHERS, Filters(), "s", lambda key: ImageSample("i.tar", "7", picture(0))
    )
    (row,), (other,) = inside.to_pylist(), joined.to_pylist()
    assert not skipped.num_rows
    assert (row["views"], row["captions"], row["dims"]) == (VIEWS, f'{{"syn_text": {CAPTIONS}}}', list(DIMS))
    assert (row["image_shard"], other["image_shard"], other["image_key"]) == (None, "i.tar", "7")
    assert row["sha256"] == other["sha256"] == digest(complete(parts, {}))


def test_own_members_take_precedence_over_those_of_the_image_shard() -> None:
    image = {"png": b"other", "txt": b"other", "json": b'{"caption": "from json"}', "npz": b"x"}
    assert complete({"jpg": b"own", "txt": b"own"}, image) == {"jpg": b"own", "txt": b"own"}
    assert complete({"syn.json": b"{}"}, image) == {"syn.json": b"{}", "png": b"other", "txt": b"other"}
    del image["txt"]
    assert complete({}, image) == {"png": b"other", "txt": b"from json"}


def test_a_digest_depends_on_names_and_bytes() -> None:
    found = {digest(each) for each in ({"a": b"bc"}, {"ab": b"c"}, {"a": b"b", "c": b""}, {"a": b"bd"})}
    assert len(found) == 4
    assert digest({"a": b"1", "b": b"2"}) == digest({"b": b"2", "a": b"1"})


def test_a_single_teacher_has_the_width_of_the_embeddings() -> None:
    from tests.mobileclip2.stages import published_shards

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(published_shards, "DIMS", (16,))
        parts = {**picture(0), **members(0)}
    table, _ = validate_reinforced([RawSample("k", parts)], {"only": None}, Filters(), "s")
    assert table.column("dims").to_pylist() == [[16]]
    with pytest.raises(ShardError, match=r"^s: sample 'k': its embeddings have 16 numbers, and the dimensions \[8\]"):
        validate_reinforced([RawSample("k", parts)], {"only": 8}, Filters(), "s")


@pytest.mark.parametrize("dims", [(-1, 33), (0, 32), (33, -1), (True, 31), (8.0, 24), (None, 32), ("24", 8)])
def test_a_dimension_below_one_is_refused(dims: tuple[object, object]) -> None:
    stated = [{"name": name, "dim": dim} for name, dim in zip(TEACHERS, dims, strict=True)]
    parts = {**picture(0), **members(0), "json": json.dumps({"teachers": stated}).encode()}
    with pytest.raises(ShardError, match=r"^s: sample 'k': its teachers are .*each needs a dimension of at least 1"):
        validate_reinforced([RawSample("k", parts)], dict.fromkeys(TEACHERS), Filters(), "s")


def test_samples_of_different_teachers_are_refused() -> None:
    assert teachers_of([[2, 3], [2, 3]], ["a", "b"]) == {"a": 2, "b": 3}
    assert teachers_of([], ["a"]) is None
    with pytest.raises(ValueError, match=r"\[2\] and \[3\]"):
        teachers_of([[2], [3]], ["a"])

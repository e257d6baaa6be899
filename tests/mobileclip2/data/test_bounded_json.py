"""``load_json`` reads JSON to a fixed depth, so that its result can be written again."""

from __future__ import annotations

import json

import pytest

from mobileclip2.data.bounded_json import MAX_DEPTH, load_json, unique_fields


def nested(depth: int, start: str = "[", end: str = "]") -> bytes:
    return (start * depth + "1" + end * depth).encode()


@pytest.mark.parametrize(("start", "end"), [("[", "]"), ('{"a":', "}"), ('[{"a":', "}]")])
def test_json_is_read_to_a_fixed_depth(start: str, end: str) -> None:
    levels = MAX_DEPTH // (2 if start == '[{"a":' else 1)
    value = load_json(nested(levels, start, end))
    assert load_json(json.dumps(value).encode()) == value
    for depth in (levels + 1, 992, 100_000):
        with pytest.raises(ValueError, match="nested more than 400 deep"):
            load_json(nested(depth, start, end))


def test_many_brackets_without_deep_nesting_are_read() -> None:
    assert load_json(b'["' + b"[" * 1000 + b'", ' + b"[]," * 1000 + b"1]")[-1] == 1


@pytest.mark.parametrize("data", [b"", b"{", b"\xff", b"1" * 5000, b'{"a": 1, "a": 1}'])
def test_malformed_json_is_a_value_error(data: bytes) -> None:
    with pytest.raises(ValueError):
        load_json(data)


def test_a_field_that_occurs_twice_is_an_error_at_each_depth() -> None:
    assert json.loads('{"a": {"a": 1}, "b": {"a": 2}}', object_pairs_hook=unique_fields) == {
        "a": {"a": 1},
        "b": {"a": 2},
    }
    with pytest.raises(ValueError, match="the field 'a' occurs twice"):
        json.loads('[{"b": {"a": 1, "c": 2, "a": 1}}]', object_pairs_hook=unique_fields)

import json
from pathlib import PurePosixPath, PureWindowsPath

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from mobileclip2.fingerprint import DECLARED_IF_SET, UNDECLARED, canonical, declared, fingerprint

leaves = (
    st.none()
    | st.booleans()
    | st.integers(-(10**9), 10**9)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
values = st.recursive(leaves, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=12)


class Settings(BaseModel):
    rate: float = 1e-3
    views: int = 2
    names: tuple[str, ...] = ("a",)
    workers: int = Field(4, json_schema_extra=UNDECLARED)


@given(st.dictionaries(st.text(), values, min_size=2))
def test_key_order_does_not_matter(mapping):
    assert fingerprint(mapping) == fingerprint(dict(reversed(mapping.items())))


@given(values)
def test_a_json_round_trip_does_not_matter(value):
    assert fingerprint(json.loads(json.dumps(value))) == fingerprint(value)


@given(st.integers(-(2**52), 2**52))
def test_whole_numbers_have_one_form(number):
    assert canonical(float(number)) == canonical(number)


def test_number_formats_do_not_matter():
    assert fingerprint(Settings(rate=1e-3)) == fingerprint(Settings(rate=0.001))


def test_defaults_made_explicit_do_not_matter():
    assert fingerprint(Settings()) == fingerprint(Settings(rate=1e-3, views=2, names=("a",)))


def test_a_declared_if_set_field_without_a_value_is_left_out():
    class Model(BaseModel):
        hidden: int | None = Field(None, json_schema_extra=DECLARED_IF_SET)

    assert declared(Model()) == {} and declared(Model(hidden=8)) == {"hidden": 8}


def test_undeclared_fields_do_not_matter():
    assert fingerprint(Settings(workers=1)) == fingerprint(Settings(workers=64))
    assert "workers" not in declared(Settings())


@pytest.mark.parametrize("change", [{"rate": 2e-3}, {"views": 3}, {"names": ("a", "b")}])
def test_every_declared_field_matters(change):
    assert fingerprint(Settings(**change)) != fingerprint(Settings())


@pytest.mark.parametrize("empty", [None, 0, False, "", [], {}])
def test_empty_values_are_not_left_out(empty):
    assert fingerprint({"field": empty}) != fingerprint({})


def test_paths_are_fingerprinted_in_full_and_equal_on_every_system():
    assert fingerprint({"path": PurePosixPath("one/x")}) != fingerprint({"path": PurePosixPath("other/x")})
    assert declared([PurePosixPath("one/x"), PureWindowsPath("one\\x")]) == ["one/x", "one/x"]


@given(values, values)
def test_different_values_differ(one, other):
    if canonical(one) != canonical(other):
        assert fingerprint(one) != fingerprint(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), object(), {1, 2}])
def test_values_without_a_canonical_form_are_refused(value):
    with pytest.raises(ValueError, match="cannot be part of a fingerprint"):
        fingerprint(value)

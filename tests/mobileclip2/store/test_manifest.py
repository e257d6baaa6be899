from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mobileclip2.store import File, Manifest
from mobileclip2.store.manifest import WATCHED_FILES, identify

PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.sampled_from("abc"), values, max_size=3),
    max_leaves=5,
)


def test_the_data_version_depends_on_the_content_alone(manifest: Callable[..., Manifest]) -> None:
    same = manifest(code_version="2", fingerprint="other", declared={"x": 1}, inputs={"y": "z"})
    assert same.data_version == manifest().data_version
    for change in ({"samples": 2}, {"facts": {"dim": 3}}, {"files": [File(name="x", size=1, sha256="1")]}):
        assert manifest(**change).data_version != manifest().data_version


def test_a_manifest_round_trips_through_its_file(manifest: Callable[..., Manifest]) -> None:
    written = manifest(facts={"ü": [1, 2.5, None]}, skipped=2, skip_reasons={"broken-image": 2})
    assert Manifest.from_bytes(written.to_bytes()) == written
    assert json.loads(written.to_bytes())["data_version"] == written.data_version


@given(st.dictionaries(st.sampled_from("abc"), PLAIN), st.dictionaries(st.sampled_from("abc"), PLAIN))
def test_the_fingerprint_depends_on_the_declared_fields_in_any_order(one: dict, other: dict) -> None:
    reordered = dict(reversed(one.items()))
    assert identify("a", "1", one, {}) == identify("a", "1", reordered, {})
    if json.dumps(one, sort_keys=True) != json.dumps(other, sort_keys=True):
        assert identify("a", "1", one, {}) != identify("a", "1", other, {})


def test_a_new_code_version_or_input_gives_a_new_fingerprint() -> None:
    identities = {identify("a", "1", {}, {}), identify("a", "2", {}, {}), identify("a", "1", {}, {"raw": "0"})}
    assert len(identities | {identify("b", "1", {}, {})}) == 4


def test_a_summary_lists_the_files_of_small_artifacts_only(manifest: Callable[..., Manifest]) -> None:
    files = [File(name=f"{number:04d}", size=2, sha256="0") for number in range(WATCHED_FILES + 1)]
    small, large = manifest(files=files[:-1]).summary(), manifest(files=files).summary()
    assert small.watched is not None and len(small.watched) == WATCHED_FILES and large.watched is None
    assert (small.size, large.size) == (2 * WATCHED_FILES, 2 * WATCHED_FILES + 2)
    assert large.data_version == manifest(files=files).data_version


def test_facts_that_json_cannot_represent_are_rejected(manifest: Callable[..., Manifest]) -> None:
    with pytest.raises(ValueError, match="nan"):
        manifest(facts={"loss": float("nan")}).to_bytes()

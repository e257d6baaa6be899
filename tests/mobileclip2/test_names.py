from __future__ import annotations

import pytest

from mobileclip2.errors import UserError
from mobileclip2.names import did_you_mean, find, listed

KEYS = ["raw_shards", "teacher/wide", "student/plain", "evaluation/plain", "evaluation/wide_2"]


def test_a_full_name_is_found_before_a_short_one() -> None:
    assert find("wide", ["a/wide", "wide"], "asset") == "wide"
    assert find("student/plain", KEYS, "asset") == "student/plain"


def test_a_short_name_is_found_if_it_is_unique() -> None:
    assert find("wide", KEYS, "asset") == "teacher/wide"
    with pytest.raises(UserError, match="'plain' can be student/plain or evaluation/plain; give the full name"):
        find("plain", KEYS, "asset")


def test_a_misspelt_name_gets_suggestions() -> None:
    with pytest.raises(UserError, match="there is no asset 'raw_shard'; did you mean 'raw_shards'"):
        find("raw_shard", KEYS, "asset")


def test_an_error_without_suggestions_lists_all_names() -> None:
    with pytest.raises(UserError, match="there is no asset 'xyz'; the profile has raw_shards, teacher/wide, "):
        find("xyz", KEYS, "asset")
    with pytest.raises(UserError, match="the profile has none"):
        find("xyz", [], "asset")


def test_case_and_the_folder_of_a_key_do_not_matter() -> None:
    assert did_you_mean("PLAIN", KEYS).startswith("; did you mean 'student/plain' or 'evaluation/plain'")
    assert did_you_mean("a", [f"a{number}" for number in range(9)]).count("'a") <= 3


def test_suggestions_are_part_of_a_sentence() -> None:
    assert did_you_mean("wid", ["wide", "widen"]) == "; did you mean 'wide' or 'widen'?"
    assert did_you_mean("xyz", KEYS) == ""
    assert (listed(["a", "b"]), listed([])) == ("a, b", "none")

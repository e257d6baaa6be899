"""Text that is not plain YAML is rejected before its aliases are followed. The error names the file and the line."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.config.read_yaml import MAX_BYTES, parse_yaml, redact
from mobileclip2.errors import ProfileError

START = "name: x\nstore: s\nsources: [{url: u}]\n"


def bomb(item: str, form: str) -> str:
    lines = [f"a: &a {item}\n"]
    for before, name in zip("abcdefghi", "bcdefghij", strict=True):
        lines.append(f"{name}: &{name} " + form.format(",".join([f"*{before}"] * 9)) + "\n")
    return "".join(lines)


ATTACKS = {
    "aliases of aliases": (bomb("[x]", "[{}]"), "line 5", "aliases repeat each other"),
    "merges of merges": (bomb("{x: 1}", "{{<<: [{}]}}"), "line 5", "aliases repeat each other"),
    "an anchor within itself": ("a: &a [*a]", "line 1", "an alias of itself"),
    "a mapping within itself": (START + "rates: &r {x: *r}", "line 4", "an alias of itself"),
    "a key twice": (START + "store: other", "line 4", "the key 'store' occurs twice"),
    "a nested key twice": (START + "rates: {a: 1, a: 2}", "line 4", "the key 'a' occurs twice"),
    "5,000 digits": (START + "groups: " + "9" * 5000, "line 4", "not a valid value of type 'int'"),
    "more than 64 bits": (START + "groups: " + "9" * 20, "line 4", "more than 64 bits"),
    "base 60": (START + "groups: " + ":".join(["1"] * 40), "line 4", "more than 64 bits"),
    "many values": (
        START + "rates:\n" + "".join(f"  k{n}: 1\n" for n in range(6000)),
        "line",
        "more than 10,000 values",
    ),
    "lists in lists": ("[" * 5000, "line 1", "more than 50 nested"),
    "dashes": ("- " * 5000, "line 1", "more than 50 nested"),
    "blocks": ("".join("  " * n + "a:\n" for n in range(300)), "line 50", "more than 50 nested"),
    "NUL": (START + "a: \0", "line 4", r"U\+0000"),
    "no date": (START + "ledger: 2024-99-99", "line 4", "type 'timestamp'"),
    "a date": (START + "ledger: 2024-09-09", "line 4", "type 'timestamp' is not accepted"),
    "a set": (START + "groups: !!set {a}", "line 4", "type 'set' is not accepted"),
    "a number as a key": (START + "rates: {5: 1}", "line 4", "the key '5' is not text; put it in quotes"),
    "a truth value as a key": (START + "rates: {on: 1}", "line 4", "the key 'on' is not text; put it in quotes"),
    "no number": (START + "groups: !!int abc", "line 4", "type 'int'"),
    "no truth value": (START + "groups: !!bool abc", "line 4", "type 'bool'"),
    "a call": (START + "groups: !!python/object/apply:os.getcwd []", "line 4", "could not determine a constructor"),
    "a list as a key": ("? [a]\n: b", "line 1", "unhashable key"),
    "two documents": (START + "---\n" + START, "line 4", "another document"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_the_error_names_the_file_and_the_line(attack: str, tmp_path: Path) -> None:
    text, line, message = ATTACKS[attack]
    path = tmp_path / "profile.yaml"
    path.write_text(text)
    with pytest.raises(ProfileError, match=rf"profile\.yaml, {line}.*{message}"):
        load(path)


@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-32", "utf-16-be"])
def test_other_encodings_than_utf8_are_rejected(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(START + "# caf\u00e9\n", encoding=encoding)
    with pytest.raises(ProfileError, match=r"profile\.yaml, line \d"):
        load(path)


def test_a_byte_order_mark_and_one_anchor_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(START + "views: &v {count: 1}\nfilters: {min_side: 1e1}\n", encoding="utf-8-sig")
    assert load(path).filters.min_side == 10
    text = "base: &base {a: 1}\nother: {<<: *base, b: 2}\nboth: [*base, *base]"
    assert parse_yaml(text, "x")["other"] == {"a": 1, "b": 2}


def test_a_syntax_error_does_not_quote_the_line() -> None:
    with pytest.raises(ProfileError) as error:
        parse_yaml("store: [s3://me:hunter2@host/x\n", "x")
    assert "hunter2" not in str(error.value)


def test_redacted_values_and_unchanged_fields() -> None:
    text = """name: &n demo
a:
  b:
    X: hunter2  # kept
    Y: "two\\nwords"
    Z: |
      block
      text
    W: &w {deep: [secret, !!str 5]}
    same: *n
  c: *n
d: {b: {X: stays}}
e: *w
"""
    shown = redact(text, ("a", "b"))
    hidden = parse_yaml(shown, "x")
    assert hidden["a"]["b"] | {"W": None} == {"X": "***", "Y": "***", "Z": "***", "W": None, "same": "demo"}
    assert "hunter2" not in shown and "block" not in shown and "# kept" in shown
    assert {**hidden, "a": None} == {**parse_yaml(text, "x"), "a": None}
    assert redact(text) == redact(text, ("nowhere",), ("d", "e", "f")) == text


@pytest.mark.parametrize("text", ["a:\n  b:\n", "a: {b: }", "a: {b}", "a: {b: '', c: x}"])
def test_empty_values_are_not_redacted(text: str) -> None:
    assert redact(text, ("a", "b")) == text


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(ProfileError, match=f"larger than {MAX_BYTES:,} bytes"):
        load(path)


def test_paths_that_are_not_files_are_rejected(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ProfileError, match="not a file"):
            load(path)
    for path in (tmp_path / "gone.yaml", Path("a\0b")):
        with pytest.raises(ProfileError, match="cannot read the profile"):
            load(path)


def test_only_the_first_problems_are_listed(tmp_path: Path) -> None:
    path = tmp_path / "profile.yaml"
    path.write_text(START + "".join(f"k{n}: 1\n" for n in range(500)))
    with pytest.raises(ProfileError, match="and 480 more"):
        load(path)

from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.data.importing.folders import captioned_folder, class_folders, has_captions, pictures


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_hidden_files_and_other_formats_are_not_pictures(tmp_path: Path) -> None:
    touch(tmp_path, "b.JPG", "a/c.webp", ".hidden/d.jpg", ".e.jpg", "notes.txt")
    assert [path.relative_to(tmp_path).as_posix() for path in pictures(tmp_path)] == ["a/c.webp", "b.JPG"]


def test_the_first_subfolder_is_the_class(tmp_path: Path) -> None:
    touch(tmp_path, "golden_retriever/day/1.jpg", "cat/2.jpg", "3.jpg", "a__b /4.jpg")
    rows = {Path(row.source).name: row for row in class_folders(tmp_path)}
    assert (rows["1.jpg"].label, rows["2.jpg"].label) == ("golden retriever", "cat")
    assert rows["3.jpg"].fault is not None and rows["3.jpg"].fault.reason == "no-class"
    assert rows["4.jpg"].label == "a b"


@pytest.mark.parametrize(
    ("name", "content", "captions", "reason"),
    [
        ("1.txt", b"\xef\xbb\xbfone\n\ntwo\n", ("one", "two"), None),
        ("1.json", b'{"caption": "three"}', ("three",), None),
        ("1.json", b"[]", (), "invalid-caption"),
        ("1.json", b'{"caption": "three", "caption": "four"}', (), "invalid-caption"),
        ("1.json", b'{"caption": 7}', (), "invalid-caption"),
        ("1.json", b'{"caption": null}', (), None),
        ("1.txt", b"\xff", (), "invalid-caption"),
        ("2.txt", b"of another picture", (), "missing-caption"),
    ],
)
def test_captions_are_read_from_files_next_to_the_picture(
    tmp_path: Path, name: str, content: bytes, captions: tuple[str, ...], reason: str | None
) -> None:
    touch(tmp_path, "1.jpg")
    (tmp_path / name).write_bytes(content)
    (row,) = captioned_folder(tmp_path)
    assert row.captions == captions and (row.fault.reason if row.fault else None) == reason
    assert has_captions(pictures(tmp_path)) == name.startswith("1")

"""A listing contains every file once and rejects paths that it cannot list."""

import os

import pytest

from mobileclip2.engine.listing import list_files, list_unread
from mobileclip2.errors import ShardError


@pytest.mark.parametrize("target", [".", "..", "loop", "deep/er", "/"])
def test_a_loop_of_symbolic_links_is_named(tmp_path, target):
    (tmp_path / "shards" / "deep" / "er").mkdir(parents=True)
    place = tmp_path / "shards" / "deep" / "er" if target == "deep/er" else tmp_path / "shards"
    (place / "loop").symlink_to(tmp_path / "shards" if target in {"deep/er", "/"} else target)
    with pytest.raises(ShardError, match=r"loop.*(name folders without it|Too many levels of symbolic links)"):
        list_files(str(tmp_path / "shards"), "**/*.tar")


def test_links_to_other_folders_and_files_are_followed(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "0.tar").touch()
    (tmp_path / "shards").mkdir()
    for name in ("a", "b"):
        (tmp_path / "shards" / name).symlink_to(tmp_path / "elsewhere")
    (tmp_path / "shards" / "1.tar").symlink_to(tmp_path / "elsewhere" / "0.tar")
    assert [file.relative for file in list_files(str(tmp_path / "shards"), "**/*.tar")] == [
        "1.tar",
        "a/0.tar",
        "b/0.tar",
    ]


def test_a_name_that_is_not_utf8_is_refused(tmp_path):
    (tmp_path / os.fsdecode(b"caf\xe9.tar")).touch()
    with pytest.raises(ShardError, match=r"caf.*not UTF-8; rename it"):
        list_files(str(tmp_path), "**/*.tar")


def names(folder, pattern):
    return [file.relative for file in list_files(str(folder), pattern)]


def test_a_link_without_a_target_is_refused_if_it_matches(tmp_path):
    (tmp_path / "a0.tar").touch()
    (tmp_path / "b1.tar").symlink_to(tmp_path / "gone")
    os.mkfifo(tmp_path / "c2.tar")
    assert names(tmp_path, "a*.tar") == ["a0.tar"]
    for pattern, name in (("**/*.tar", "b1"), ("b*", "b1"), ("c*.tar", "c2")):
        with pytest.raises(ShardError, match=rf"{name}\.tar: neither a file nor a symbolic link to one; restore"):
            list_files(str(tmp_path), pattern)


def test_tars_with_another_ending_are_listed_as_unread(tmp_path):
    for name in ("a0.tar", "a0.tar.gz", "a1.TAR", "a2.tar.zst", "deep/a3.tgz", "b4.Tar.Gz", "a5.zip", "a.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "part1").symlink_to(tmp_path / "gone")
    unread = ["a1.TAR", "a2.tar.zst", "deep/a3.tgz", "part1"]
    assert list_unread([str(tmp_path)], "**/*.tar") == sorted([*unread, "b4.Tar.Gz"])
    assert list_unread([str(tmp_path)], "a*.tar") == unread
    assert list_unread([str(tmp_path / "a0.tar"), str(tmp_path / "deep")], "a3*") == []

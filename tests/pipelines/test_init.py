from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mobileclip2.config.profile import load
from mobileclip2.errors import UserError
from pipelines import init
from pipelines.init import FEWEST, MOST, STARTS, Start, ask_start, find_shards, profile_name, write_profile


@pytest.fixture
def home(tiny_template: Path, tmp_path: Path) -> Path:
    """Return a folder with shards and an evaluation set."""
    shutil.copytree(tiny_template / "shards", tmp_path / "my shards")
    shutil.copytree(tiny_template / "evaluation" / "shapes", tmp_path / "shapes")
    return tmp_path


@pytest.mark.parametrize("start", STARTS)
def test_a_written_profile_is_valid(home: Path, start: Start) -> None:
    path = home / "deep" / "mobileclip2.yaml"
    write_profile(home / "my shards", [home / "shapes"], path, "mine", start)
    profile = load(path)
    assert profile.name == "mine" and profile.groups == 4
    assert Path(profile.locate(profile.sources[0].url)) == home / "my shards"
    assert [source.name for source in profile.evaluation] == ["shapes"]


@pytest.mark.parametrize(("samples", "steps"), [(10, FEWEST), (5000, 500), (10**6, MOST)])
def test_the_length_of_training_follows_the_number_of_samples(
    home: Path, monkeypatch: pytest.MonkeyPatch, samples: int, steps: int
) -> None:
    monkeypatch.setattr(init, "find_shards", lambda folder: (4, samples))
    write_profile(home / "my shards", [], home / "p.yaml", "mine", "small")
    lengths = [student.train.steps for student in load(home / "p.yaml").students if student.train]
    assert lengths and set(lengths) == {steps}


def test_errors_name_the_command_that_helps(home: Path) -> None:
    (home / "photos").mkdir()
    with pytest.raises(UserError, match="no tar in it; make shards of your pictures with: mobileclip2 import"):
        find_shards(home / "photos")
    with pytest.raises(UserError, match="there is no such folder"):
        find_shards(home / "nowhere")
    with pytest.raises(UserError, match=r"--evaluate .*: no evaluation set; make one"):
        write_profile(home / "my shards", [home / "photos"], home / "p.yaml", "mine", "small")
    (home / "p.yaml").touch()
    with pytest.raises(UserError, match="the file exists; give another file with --output"):
        write_profile(home / "my shards", [], home / "p.yaml", "mine", "small")


@pytest.mark.parametrize(("folder", "name"), [("My Pictures!", "my_pictures"), ("日本", "mine"), ("text", "mine")])
def test_the_name_of_a_folder_becomes_a_valid_name(tmp_path: Path, folder: str, name: str) -> None:
    assert profile_name(tmp_path / folder) == name


FOLDERS = st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=60)
SPECIAL = (
    "text",
    "image",
    "2024",
    "1e3",
    "1e999",
    "9" * 20,
    "null",
    "...",
    "-",
    "~",
    " ",
    "評価",
    "_x",
    "a..b",
    "x:2024",
)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(FOLDERS.filter(lambda name: name not in {".", ".."}) | st.sampled_from(SPECIAL), min_size=1, max_size=3)
)
@example(["a", "a", "a!", "a-2"])
@example(["0", "0\r"])
@example(["a\rb"])
@example(["a", "a\n b\x85c\u2028"])
def test_every_folder_gives_a_profile_that_loads_or_is_refused(folders: list[str]) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(init, "find_shards", lambda folder: (4, 100))
        paths = [Path(folder) / each for each in folders]
        for each in paths:
            (each / "test").mkdir(parents=True, exist_ok=True)
            (each / "test" / "nshards.txt").touch()
        name, file = profile_name(paths[0]), Path(folder) / "the written profile.yaml"
        try:
            write_profile(paths[0], paths, file, name, "small")
        except UserError as error:
            assert "rename the folder" in str(error)
            assert not "".join(folders).isprintable() or re.search("[{}]", folders[0])
            return
        profile = load(file)
        assert profile.name == name
        assert Path(profile.locate(profile.sources[0].url)) == paths[0]
        assert [Path(profile.locate(each.url)) for each in profile.evaluation] == paths


@pytest.mark.parametrize("folder", SPECIAL)
def test_a_folder_with_a_special_name_gives_a_profile(home: Path, folder: str) -> None:
    images, sets = home / folder, home / "sets" / folder
    shutil.copytree(home / "my shards", images)
    shutil.copytree(home / "shapes", sets)
    write_profile(images, [sets, sets], home / "p.yaml", profile_name(images), "small")
    profile = load(home / "p.yaml")
    assert Path(profile.locate(profile.sources[0].url)) == images
    assert [Path(profile.locate(each.url)) for each in profile.evaluation] == [sets, sets]


@pytest.mark.parametrize("folder", ["a{b,c}", "a{", "line\nend", os.fsdecode(b"caf\xe9")])
def test_a_folder_that_a_profile_cannot_name_is_refused(home: Path, folder: str) -> None:
    (home / "my shards").rename(home / folder)
    with pytest.raises(UserError, match="; rename the folder"):
        write_profile(home / folder, [], home / "p.yaml", "mine", "small")
    assert not (home / "p.yaml").exists()


def test_questions_are_asked_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask_start() == "small"
    answers = iter(["nonsense", " released "])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert ask_start() == "released"

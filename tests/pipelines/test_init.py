from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.errors import UserError
from pipelines import init
from pipelines.init import FEWEST, MOST, STARTS, Shards, Start, ask, find_shards, profile_name, write_profile


@pytest.fixture
def home(tiny_template: Path, tmp_path: Path) -> Path:
    """Return a folder with shards and an evaluation set."""
    shutil.copytree(tiny_template / "shards", tmp_path / "my shards")
    shutil.copytree(tiny_template / "evaluation" / "shapes", tmp_path / "shapes")
    return tmp_path


@pytest.mark.parametrize("start", STARTS)
def test_a_written_profile_is_valid(home: Path, start: Start) -> None:
    path = home / "deep" / "mobileclip2.yaml"
    text = write_profile(home / "my shards", [home / "shapes"], path, "mine", start)
    profile = load(path)
    assert path.read_text() == text and profile.name == "mine" and profile.groups == 4
    assert Path(profile.locate(profile.sources[0].url)) == home / "my shards"
    assert [source.name for source in profile.evaluation] == ["shapes"]


@pytest.mark.parametrize(("samples", "steps"), [(10, FEWEST), (5000, 500), (10**6, MOST)])
def test_the_length_of_training_follows_the_number_of_samples(
    home: Path, monkeypatch: pytest.MonkeyPatch, samples: int, steps: int
) -> None:
    monkeypatch.setattr(init, "find_shards", lambda folder: Shards(folder, 4, samples))
    write_profile(home / "my shards", [], home / "p.yaml", "mine", "small")
    lengths = [student.train.steps for student in load(home / "p.yaml").students if student.train]
    assert lengths and set(lengths) == {steps}


def test_what_cannot_be_used_names_the_command_that_helps(home: Path) -> None:
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


@pytest.mark.parametrize(("folder", "name"), [("My Pictures!", "my_pictures"), ("日本", "mine")])
def test_the_name_of_a_folder_becomes_a_valid_name(tmp_path: Path, folder: str, name: str) -> None:
    assert profile_name(tmp_path / folder) == name


def test_questions_are_asked_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ask("Start?", STARTS, "small") == "small"
    answers = iter(["nonsense", " released "])
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    assert ask("Start?", STARTS, "small") == "released"

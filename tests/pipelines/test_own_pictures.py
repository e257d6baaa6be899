"""Follow a new user from a folder of pictures and a table of captions to a search page.

The user does not edit any file. The test shortens the trainings.
"""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from mobileclip2.config.profile import load
from mobileclip2.data.tar import read_samples

ROOT = Path(__file__).parents[2]
PICTURES, CLASSES = 60, 8


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with pictures of the demo, a table of their captions, and a folder for each of eight classes."""
    (tmp_path / "photos").mkdir()
    rows = [("file", "caption")]
    for tar in sorted((ROOT / "demo" / "shards").rglob("*.tar")):
        with tar.open("rb") as file:
            for sample in read_samples(file, tar.name):
                if len(rows) > PICTURES:
                    break
                name = f"{len(rows):03d}.webp"
                image = next(sample.members[ending] for ending in ("webp", "png", "jpg") if ending in sample.members)
                (tmp_path / "photos" / name).write_bytes(image)
                rows.append((name, sample.members["txt"].decode()))
    with (tmp_path / "captions.csv").open("w") as table:
        csv.writer(table).writerows(rows)
    for number, (name, _) in enumerate(rows[1 : 1 + CLASSES * 5]):
        folder = tmp_path / "classes" / f"class_{number % CLASSES}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes((tmp_path / "photos" / name).read_bytes())
    return tmp_path


def mobileclip2(home: Path, *words: str) -> str:
    """Run a command in the user's folder and return what it prints."""
    environment = {name: value for name, value in os.environ.items() if name != "MOBILECLIP2_PROFILE"}
    environment |= {"PYTHONPATH": str(ROOT), "DAGSTER_HOME": str(home / "dagster")}
    done = subprocess.run(
        [sys.executable, "-m", "pipelines.cli", *words],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_start_profile_is_valid_for_each_kind_of_start(home):
    mobileclip2(home, "import", "photos/", "--captions", "captions.csv", "-o", "shards/")
    mobileclip2(home, "import", "classes/", "--as-evaluation", "-o", "evaluation/mine/")
    for start in ("small", "released"):
        words = ("init", "--images", "shards/", "--evaluate", "evaluation/mine/", "--start", start)
        mobileclip2(home, *words, "--output", f"{start}.yaml")
        profile = load(home / f"{start}.yaml")
        assert [student.name for student in profile.students][-1] in {"mine", "plain"}
        assert profile.evaluation[0].name == "mine"


@pytest.mark.slow
def test_from_pictures_to_a_search_page(home):
    printed = mobileclip2(home, "import", "photos/", "--captions", "captions.csv", "-o", "shards/")
    assert f"{PICTURES} samples from {PICTURES} rows" in printed
    mobileclip2(home, "import", "classes/", "--as-evaluation", "-o", "evaluation/mine/")
    mobileclip2(home, "init", "--images", "shards/", "--evaluate", "evaluation/mine/")
    profile = home / "mobileclip2.yaml"
    steps = re.compile(r"steps: \d+")
    assert len(steps.findall(profile.read_text())) == 2
    profile.write_text(steps.sub("steps: 12", profile.read_text()))  # Full training takes too long for a test.
    mobileclip2(home, "run")
    printed = mobileclip2(home, "search", "student/mine", "a red apple", "photos/", "--top", "5")
    assert printed.count(".webp") == 5
    page = (home / "search.html").read_text()
    assert page.count("<img") == 5
    assert "a red apple" in page

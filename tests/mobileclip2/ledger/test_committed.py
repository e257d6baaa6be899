from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from mobileclip2.config.profile import Profile, load
from mobileclip2.errors import LedgerError
from mobileclip2.ledger.committed import committed_paths


def git(folder: Path, *arguments: str) -> None:
    named = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "init.defaultBranch=main"]
    subprocess.run(["git", *named, *arguments], cwd=folder, check=True, capture_output=True)


def write(folder: Path, name: str, *paths: str) -> None:
    file = folder / "ledger" / "tiny" / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({"asset": "a", "outputs": [{"path": path} for path in paths]}))


@pytest.fixture
def profile(tiny: Path) -> Profile:
    tiny.write_text(f"{tiny.read_text()}\nledger: .\n")
    return load(tiny)


def test_outputs_of_every_branch_tag_and_stash_are_found(profile: Profile) -> None:
    folder = Path(profile.folder)
    git(folder, "init")
    for name, keep in (("one", "tag"), ("two", "branch"), ("three", "")):
        write(folder, "raw_shards.json", name, f"{name}/more")
        git(folder, "add", "ledger")
        git(folder, "commit", "-m", name)
        if keep:
            git(folder, keep, f"kept-{name}")
        git(folder, "checkout", "--orphan", f"after-{name}")
    write(folder, "raw_shards.json", "stashed")
    git(folder, "add", "ledger")
    git(folder, "commit", "-m", "four")
    write(folder, "raw_shards.json", "in the stash")
    git(folder, "stash")
    found = committed_paths(profile)
    assert {"one", "one/more", "two", "two/more", "three", "stashed", "in the stash"} <= found


def test_only_asset_files_of_the_ledger_list_outputs(profile: Profile) -> None:
    folder = Path(profile.folder)
    git(folder, "init")
    write(folder, "raw_shards.json", "a/f/g00")
    (folder / "ledger" / "tiny" / "params.json").write_text('{"outputs_of": 1}')
    (folder / "ledger" / "tiny" / "loss.csv").write_text("step,loss\n")
    git(folder, "add", "ledger")
    git(folder, "commit", "-m", "one")
    assert committed_paths(profile) == {"a/f/g00"}


def test_no_ledger_or_repository_means_no_committed_paths(profile: Profile) -> None:
    assert committed_paths(profile) == set()
    assert committed_paths(profile.model_copy(update={"ledger": None})) == set()


def test_a_damaged_repository_is_reported(profile: Profile) -> None:
    (Path(profile.folder) / ".git").mkdir()
    with pytest.raises(LedgerError, match=r"git cannot list the outputs of the commits \(.*\); fix that, or remove"):
        committed_paths(profile)

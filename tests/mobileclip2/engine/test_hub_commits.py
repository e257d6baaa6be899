from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from mobileclip2.config.model import Model
from mobileclip2.engine.hub_commits import HubCommits
from mobileclip2.models import hub
from mobileclip2.store import LocalStorage

MODEL = Model(open_clip="hf-hub:somebody/some-model")
ONE, TWO = "1" * 40, "2" * 40


@pytest.fixture
def newest(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Return the newest commit of each repository. A recorded commit is preferred, as on the real hub."""
    commits = {"somebody/some-model": ONE}

    def find(model: Model, name: str, recorded: dict[str, str]) -> SimpleNamespace:
        moved = {key: commit for key, commit in commits.items() if recorded.get(key, commit) != commit}
        return SimpleNamespace(commits={**commits, **recorded}, moved=moved)

    monkeypatch.setattr(hub, "find", find)
    return commits


def test_a_resolved_commit_is_used_by_later_runs(
    tmp_path: Path, newest: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    storage = LocalStorage(tmp_path)
    assert HubCommits(lambda: storage).digest(MODEL).startswith("not resolved: ")
    assert HubCommits(lambda: storage).resolve(MODEL, "teachers.t.model") == {"somebody/some-model": ONE}
    newest["somebody/some-model"] = TWO
    later = HubCommits(lambda: storage)
    assert later.digest(MODEL) == f"somebody/some-model@{ONE}"
    assert later.resolve(MODEL, "teachers.t.model") == {"somebody/some-model": ONE}
    assert f"teachers.t.model: somebody/some-model has moved from the commit {ONE} to {TWO}" in caplog.text


def test_models_do_not_share_a_record(tmp_path: Path, newest: dict[str, str]) -> None:
    commits = HubCommits(lambda: LocalStorage(tmp_path))
    commits.resolve(MODEL, "m")
    assert commits.recorded(Model(open_clip="hf-hub:somebody/other")) == {}
    assert commits.recorded(MODEL.model_copy(update={"revision": TWO})) == {}


def test_without_a_store_commits_are_kept_in_memory(newest: dict[str, str]) -> None:
    commits = HubCommits()
    commits.resolve(MODEL, "m")
    assert commits.recorded(MODEL) == {"somebody/some-model": ONE} and HubCommits().recorded(MODEL) == {}

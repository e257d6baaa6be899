"""Calls to a small program in place of DVC. ``test_record.py`` runs DVC itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.errors import LedgerError
from mobileclip2.ledger import dvc as calls
from mobileclip2.ledger.dvc import called_by_dvc, check_repository, command, dvc


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path at which ``dvc`` is found. Tests write a program there."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    monkeypatch.setattr(calls.sys, "executable", str(scripts / "python"))
    monkeypatch.setattr(calls, "POLL_SECONDS", 0.0)
    return scripts / "dvc"


def write(program: Path, script: str) -> None:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)


def test_dvc_next_to_the_interpreter_comes_first(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setenv("PATH", str(elsewhere))
    with pytest.raises(LedgerError, match="there is no command 'dvc'; 'make setup' installs it"):
        command()
    write(elsewhere / "dvc", "true")
    assert Path(command()) == elsewhere / "dvc"
    write(program, "true")
    assert Path(command()) == program


def test_a_locked_repository_is_retried(program: Path, tmp_path: Path) -> None:
    script = """
    test -e again && exit 0
    touch again
    echo "'.dvc/tmp/lock' is busy, it is being blocked by: 1" >&2
    exit 255
    """
    write(program, script)
    dvc(tmp_path, "commit")
    assert (tmp_path / "again").exists()


def test_a_repository_that_stays_locked_is_an_error(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "WAIT_SECONDS", 0.0)
    write(program, "echo 'ERROR: Unable to acquire lock' >&2; exit 255")
    with pytest.raises(LedgerError, match="another DVC process has held the repository for 0 s"):
        dvc(tmp_path, "commit")


def test_a_dvc_failure_is_reported_without_other_output(program: Path, tmp_path: Path) -> None:
    write(program, "echo noise >&2; echo 'ERROR: dvc.lock is damaged' >&2; exit 1")
    with pytest.raises(LedgerError, match=r"'dvc commit' failed: ERROR: dvc.lock is damaged; fix that and run"):
        dvc(tmp_path, "commit", "--force")


def test_both_repositories_are_required(tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    folder.mkdir(parents=True)
    with pytest.raises(LedgerError, match="not in a git repository; run 'git init' there"):
        check_repository(folder)
    (tmp_path / ".git").mkdir()
    with pytest.raises(LedgerError, match="not in a dvc repository; run 'dvc init' there"):
        check_repository(folder)
    (tmp_path / "a" / ".dvc").mkdir()
    check_repository(folder)


def test_a_stage_that_dvc_runs_is_recognized(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DVC_STAGE", raising=False)
    assert not called_by_dvc()
    monkeypatch.setenv("DVC_STAGE", "raw_shards")
    assert called_by_dvc()

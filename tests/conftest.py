from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--whole", action="store_true", help="all of the tiny profile on the fake cluster, in some minutes"
    )
    parser.addoption("--python", default=sys.executable, help="the interpreter under which the wheel is installed")


@pytest.fixture(scope="session")
def tiny_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the tiny profile and all its data, made once; copy it, do not change it."""
    from tests.tiny import make_tiny  # loads torch, which most tests can do without

    return make_tiny(tmp_path_factory.mktemp("tiny")).parent


@pytest.fixture
def tiny(tiny_template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The profile of a tiny pipeline of the test's own, with nothing materialized."""
    monkeypatch.setenv("MOBILECLIP2_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(tiny_template, tmp_path / "tiny")) / "tiny.yaml"

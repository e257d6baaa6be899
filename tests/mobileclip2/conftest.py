from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the tiny profile after one process has materialized everything. Tests must not change it."""
    from tests.mobileclip2.engine.test_recovery import materialize_everything
    from tests.processes import run_process
    from tests.tiny import make_tiny

    profile = make_tiny(tmp_path_factory.mktemp("undisturbed") / "tiny")
    assert run_process(materialize_everything, profile) == 0
    return profile

from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.small import edited, without_captioners, without_models


@pytest.fixture
def small(tiny: Path) -> Path:
    """Return a profile with each stage except captioners, and nothing materialized."""
    edited(tiny, without_captioners)
    return tiny


@pytest.fixture
def smallest(tiny: Path) -> Path:
    """Return a profile without models, and nothing materialized."""
    edited(tiny, without_models)
    return tiny

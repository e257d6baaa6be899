from __future__ import annotations

from pathlib import Path

import pytest

from tests.pipelines.small import edited, without_captioners, without_models


@pytest.fixture
def small(tiny: Path) -> Path:
    """Return an unmaterialized profile with every stage except captioners."""
    edited(tiny, without_captioners)
    return tiny


@pytest.fixture
def smallest(tiny: Path) -> Path:
    """Return an unmaterialized profile without models."""
    edited(tiny, without_models)
    return tiny

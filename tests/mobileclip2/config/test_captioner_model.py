from __future__ import annotations

import subprocess
import sys

import pytest
from pydantic import ValidationError

from mobileclip2.config.captioner_model import CoCaConfig, GenerationSettings


def test_profiles_are_checked_without_torch() -> None:
    code = "import sys, mobileclip2.config.captioner; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_contradictory_settings_are_named() -> None:
    with pytest.raises(ValidationError, match="width 100 is not a multiple of heads 3"):
        CoCaConfig(width=100, heads=3)
    with pytest.raises(ValidationError, match="min_tokens 9 exceeds max_tokens 8"):
        GenerationSettings(max_tokens=8, min_tokens=9)
    with pytest.raises(ValidationError, match=r"std\.1\n.*greater than 0"):
        CoCaConfig(std=(0.5, 0, 0.5))
    with pytest.raises(ValidationError, match="topp"):
        GenerationSettings.model_validate({"topp": 0.5})

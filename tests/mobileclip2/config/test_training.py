from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.training import TrainSettings
from mobileclip2.fingerprint import fingerprint


def settings(**fields: Any) -> TrainSettings:
    return TrainSettings(**{"steps": 100, "batch": 8, "learning_rate": 1e-3, **fields})


@pytest.mark.parametrize("field", ["checkpoint_every", "log_every", "workers"])
def test_bookkeeping_settings_do_not_change_the_fingerprint(field: str) -> None:
    assert fingerprint(settings(**{field: 3})) == fingerprint(settings())


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("steps", 99),
        ("batch", 16),
        ("seed", 1),
        ("accumulate", 2),
        ("precision", "bf16"),
        ("evaluate_every", 10),
    ],
)
def test_settings_that_change_results_change_the_fingerprint(field: str, value: Any) -> None:
    assert fingerprint(settings(**{field: value})) != fingerprint(settings())


def test_total_steps_follow_from_samples() -> None:
    assert settings(steps=None, samples=1000).total_steps == 125


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"samples": 10}, "exactly one of 'steps' and 'samples'"),
        ({"steps": None}, "exactly one of 'steps' and 'samples'"),
        ({"accumulate": 3}, "batch 8 does not divide into accumulate = 3"),
        ({"warmup": 101}, "warmup 101 is longer than the 100 steps"),
        ({"final_learning_rate": 0.1}, "final_learning_rate 0.1 exceeds"),
        ({"betas": (0.9, 1.0)}, r"betas \(0.9, 1.0\)"),
        ({"learning_rte": 1}, "learning_rte"),
    ],
)
def test_invalid_settings_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        settings(**fields)


def test_profiles_are_checked_without_torch() -> None:
    code = "import sys, mobileclip2.config.training; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

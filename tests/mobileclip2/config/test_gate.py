from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.gate import Gate
from mobileclip2.fingerprint import declared


@pytest.mark.parametrize(
    "fields",
    [{"tolerance": {}}, {"tolerance": {"acc1": 1.5}}, {"tolerance": {"acc1": -0.1}}, {"confidence": 0.5}],
)
def test_an_invalid_gate_is_rejected(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=next(iter(fields))):
        Gate.model_validate(fields)


def test_gate_settings_are_not_part_of_the_fingerprint() -> None:
    assert declared(Gate(baseline="s0", tolerance={"acc1": 0.0}, sets=("imagenet1k",), confidence=0.99)) == {}

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from mobileclip2.config.augmentation import Augmentation, RandAugment


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"scale": (0.5, 0.2)}, "0 < lowest <= highest <= 1"),
        ({"scale": (0.0, 1.0)}, "0 < lowest <= highest <= 1"),
        ({"scale": (0.1, 1.1)}, "0 < lowest <= highest <= 1"),
        ({"ratio": (2.0, 1.0)}, "the lower first"),
        ({"ratio": (1.0, float("inf"))}, "finite number"),
        ({"ratio": (1.0, 1.7e308)}, "from 1e-6 to 1e6"),
        ({"ratio": (5e-324, 1.0)}, "from 1e-6 to 1e6"),
    ],
)
def test_an_invalid_crop_range_is_rejected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Augmentation(**fields)


def test_the_magnitude_must_be_one_of_the_bins() -> None:
    assert RandAugment(magnitude=4, bins=5).magnitude == 4
    with pytest.raises(ValidationError, match=r"magnitude 5 must be below bins \(5\)"):
        RandAugment(magnitude=5, bins=5)


def test_null_switches_randaugment_off() -> None:
    assert Augmentation.model_validate({"randaugment": None}).randaugment is None
    assert Augmentation().randaugment == RandAugment(ops=2, magnitude=9, bins=31)

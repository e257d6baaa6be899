import pytest
from pydantic import ValidationError

from mobileclip2.config.checks import Checks
from mobileclip2.fingerprint import declared


@pytest.mark.parametrize("fields", [{"bad_samples": 1.1}, {"scored_pairs": -1}, {"norm_error": -0.1}, {"unknown": 1}])
def test_a_limit_outside_its_range_is_refused(fields):
    with pytest.raises(ValidationError):
        Checks.model_validate(fields)


def test_limits_are_not_part_of_the_fingerprint():
    assert declared(Checks(repeated_captions=0.1, evaluation_pictures=None)) == {}

from __future__ import annotations

from mobileclip2.data.bad_sample import BadSample


def test_the_reason_is_counted_and_the_detail_explains_it() -> None:
    error = BadSample("truncated-image", "the JPEG ends at byte 12")
    assert (error.reason, error.detail) == ("truncated-image", "the JPEG ends at byte 12")
    assert str(error) == "truncated-image: the JPEG ends at byte 12"

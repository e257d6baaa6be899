from __future__ import annotations

import warnings

import pytest
from PIL import Image
from pydantic import ValidationError

from mobileclip2.config.filters import PILLOW_LIMIT, Filters


def test_accepted_images_do_not_trigger_the_bomb_warning_of_pillow() -> None:
    assert PILLOW_LIMIT == Image.MAX_IMAGE_PIXELS
    with pytest.raises(ValidationError, match="max_pixels"):
        Filters(max_pixels=PILLOW_LIMIT + 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Image._decompression_bomb_check((1, Filters().max_pixels))


@pytest.mark.parametrize("field", ["min_side", "max_aspect", "max_pixels", "min_caption_chars", "max_caption_chars"])
def test_a_limit_of_zero_is_rejected(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        Filters.model_validate({field: 0})

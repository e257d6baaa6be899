"""The ``filters`` section of a profile."""

from __future__ import annotations

from pydantic import Field

from mobileclip2.config.settings import Settings

PILLOW_LIMIT = 89_478_485
"""number of pixels above which Pillow warns of a decompression bomb"""


class Filters(Settings):
    """Limits for samples. A sample outside a limit is skipped with a reason."""

    min_side: int = Field(default=2, ge=1)
    """minimum of the shorter side in pixels; web images of 1 x 1 pixel are trackers"""
    max_aspect: float | None = Field(default=None, ge=1)
    """maximum of longer side over shorter side"""
    max_pixels: int = Field(default=8192 * 8192, ge=1, le=PILLOW_LIMIT)
    """maximum of width times height, read from the header before decoding"""
    min_caption_chars: int = Field(default=1, ge=1)
    max_caption_chars: int = Field(default=8192, ge=1)
    """maximum length; a text encoder reads about 300 characters, and a page of text is not a caption"""

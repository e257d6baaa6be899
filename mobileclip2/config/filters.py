"""Which images and captions a profile accepts."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

PILLOW_LIMIT = 89_478_485
"""Above this many pixels Pillow itself warns of a decompression bomb."""


class Filters(BaseModel):
    """Limits on samples; what breaks one is skipped, with the limit as its reason."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_side: int = Field(default=2, ge=1)
    """shorter side in pixels; 1 x 1 pictures on the web are trackers"""
    max_aspect: float | None = Field(default=None, ge=1)
    """longer side over shorter side"""
    max_pixels: int = Field(default=8192 * 8192, ge=1, le=PILLOW_LIMIT)
    """width times height, checked in the header before anything is decoded"""
    min_caption_chars: int = Field(default=1, ge=1)
    max_caption_chars: int = Field(default=8192, ge=1)
    """a text encoder reads about 300 characters; what is longer than a page is not a caption"""

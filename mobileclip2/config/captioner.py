"""What a profile says about a captioner. Imports no torch: profiles are checked before it loads."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

CLIP_VOCABULARY = 49_408


class CoCaConfig(BaseModel):
    """A small CoCa on a frozen image trunk, written inline in a profile.

    The two text transformers are open_clip's own, of one width, with ``layers`` blocks each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    trunk: str = "tf_efficientnet_lite0"
    """timm name of an image model"""
    image_size: int = Field(96, ge=32)
    """side of the square input, pixels"""
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    tokens: int = Field(8, ge=1)
    """image tokens that the decoder attends to"""
    dropout: float = Field(0.5, ge=0, lt=1)
    """on the trunk's features, in training"""
    width: int = Field(128, ge=8)
    layers: int = Field(1, ge=1)
    heads: int = Field(4, ge=1)
    context_length: int = Field(16, ge=4)
    """tokens of a text, start and end included"""
    vocabulary: int = Field(CLIP_VOCABULARY, ge=514, le=CLIP_VOCABULARY)
    """The first entries of CLIP's byte-pair vocabulary that are kept: rarer words fall into more pieces, and
    the softmax over the vocabulary, most of a small captioner's arithmetic, shrinks in proportion."""

    @model_validator(mode="after")
    def _width_divides(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of heads {self.heads}")
        return self


class GenerationSettings(BaseModel):
    """How captions are sampled. Every field changes the captions, so all of them belong to their fingerprint.

    Lengths count tokens with the start and end tokens included, as ``open_clip`` counts them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    top_p: float = Field(0.9, gt=0, le=1)
    """nucleus: the fewest most probable tokens that hold this much probability"""
    temperature: float = Field(1.0, ge=0)
    """applied within the nucleus, as ``open_clip`` does; 0 is greedy"""
    max_tokens: int = Field(30, ge=3)
    min_tokens: int = Field(6, ge=3)
    """shortest sequence; 6, ``open_clip``'s own, is four tokens of text"""
    seed: int = 0
    retries: int = Field(3, ge=0)
    """further attempts at a caption that came out degenerate"""

    @model_validator(mode="after")
    def _lengths_agree(self) -> Self:
        if self.min_tokens > self.max_tokens:
            raise ValueError(f"min_tokens {self.min_tokens} exceeds max_tokens {self.max_tokens}")
        return self

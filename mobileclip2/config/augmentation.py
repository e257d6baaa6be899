"""The sections of a profile that draw views (``augmentation``) and render them for a student (``render``)."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from mobileclip2.config.settings import Settings


class RandAugment(Settings):
    """RandAugment: ``ops`` operations per view at level ``magnitude`` of ``bins`` (Cubuk et al., arXiv 1909.13719)."""

    ops: int = Field(default=2, ge=1, le=14)
    magnitude: int = Field(default=9, ge=0)
    bins: int = Field(default=31, ge=2)

    @model_validator(mode="after")
    def _magnitude_is_a_bin(self) -> Self:
        if self.magnitude >= self.bins:
            raise ValueError(f"magnitude {self.magnitude} must be below bins ({self.bins})")
        return self


class Augmentation(Settings):
    """Settings for random views: a random resized crop, then RandAugment unless it is None.

    ``scale`` is the range of crop area over image area. ``ratio`` is the range of crop width over crop height.
    """

    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    randaugment: RandAugment | None = RandAugment()

    @model_validator(mode="after")
    def _ranges(self) -> Self:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale {self.scale}: two shares of the area, 0 < lowest <= highest <= 1")
        if not 1e-6 <= self.ratio[0] <= self.ratio[1] <= 1e6:
            raise ValueError(f"ratio {self.ratio}: two width-to-height ratios from 1e-6 to 1e6, the lower first")
        return self


WEAK_AUGMENTATION = Augmentation(scale=(0.9, 1.0), randaugment=None)
"""a random crop of at least 90 % of the area, as open_clip trains; strong augmentation lowers accuracy without distillation"""


Translation = Literal["pixels", "scaled"]
"""TranslateX and TranslateY move a view by the stored number of pixels at every size, or in proportion to its size"""


class Rendering(Settings):
    """How the views of a student are rendered. The defaults are those of the released training."""

    interpolation: Literal["bicubic", "model"] = "bicubic"
    """resize of the crop: bicubic for every student, or the interpolation of the student's preprocessing"""
    translation: Translation = "pixels"
    """the stored amount is for 224 pixels: ``pixels`` keeps it at every size, ``scaled`` moves small and large views alike"""

    def interpolation_of(self, model: str) -> str:
        """Return the interpolation for a model whose preprocessing has the interpolation ``model``."""
        return model if self.interpolation == "model" else self.interpolation


RELEASED_RENDERING = Rendering()

EARLIER_RENDERING = Rendering(interpolation="model", translation="scaled")
"""how views were rendered before this was a setting; neither fingerprint nor model name it, so that such students stay fresh"""

"""The ``checks`` section of a profile."""

from __future__ import annotations

from mobileclip2.config.settings import Settings, undeclared


class Checks(Settings):
    """Limits of the checks on data: see :mod:`mobileclip2.stages.data_checks`. They are part of no fingerprint."""

    bad_samples: float | None = undeclared(None, ge=0, le=1)
    """largest share of bad samples in a group; by default, half of ``max_bad_share``"""
    evaluation_pictures: int | None = undeclared(0, ge=0)
    """largest number of samples in a group whose picture is in an evaluation set; None disables the comparison"""
    repeated_captions: float = undeclared(0.5, ge=0, le=1)
    """largest share of a group's captions that are equal"""
    degenerate_captions: float = undeclared(0.5, ge=0, le=1)
    """largest share of a group's captions that the captioner failed to write"""
    caption_fit: float = undeclared(0.1)
    """smallest fit of synthetic captions to their images: 1 is that of real captions, 0 that of captions of other images"""
    scored_pairs: int = undeclared(64, ge=0)
    """number of pairs of a group that the teacher scores; 0 disables the comparison"""
    norm_error: float = undeclared(0.02, ge=0)
    """largest difference of an embedding's length from 1"""
    repeated_embeddings: float = undeclared(0.5, ge=0, le=1)
    """largest share of a group's image embeddings that repeat another one"""

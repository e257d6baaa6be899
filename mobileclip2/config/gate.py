"""The ``gate`` section of a profile."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from mobileclip2.config.location import Baseline
from mobileclip2.config.settings import Settings, undeclared


class Gate(Settings):
    """Settings of the quality gate: see :mod:`mobileclip2.evaluation.gate`."""

    baseline: Baseline | None = undeclared(None)
    """a student or teacher of the profile, a file or folder of results, or a git revision; None disables the gate"""
    tolerance: dict[str, Annotated[float, Field(ge=0, le=1)]] = undeclared({"main_metric": 0.005}, min_length=1)
    """maximum relative drop of each metric; other metrics are not compared"""
    sets: tuple[str, ...] | None = undeclared(None)
    """evaluation sets and averages to compare; by default, all"""
    confidence: float = undeclared(0.95, gt=0.5, lt=1)
    """confidence level of a failure, over all comparisons together"""

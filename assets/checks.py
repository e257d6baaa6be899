"""Asset checks of a stage's output, evaluated in the step that materializes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import dagster as dg

from mobileclip2.engine.pipeline import MaterializeResult, Pipeline, Verdict

WARN, ERROR = dg.AssetCheckSeverity.WARN, dg.AssetCheckSeverity.ERROR


@dataclass(frozen=True)
class Check:
    """An asset check. Its name and description are those of the function that judges the output."""

    judge: Callable[[Pipeline, MaterializeResult], Verdict]
    blocking: bool = False
    """whether a failure also fails the step, so that nothing downstream runs"""
    warns: bool = False
    """whether a failure is a warning"""

    def spec(self, asset: dg.AssetKey) -> dg.AssetCheckSpec:
        """Return the specification for an asset."""
        summary = (self.judge.__doc__ or "").partition("\n")[0]
        return dg.AssetCheckSpec(self.judge.__name__, asset=asset, description=summary, blocking=self.blocking)

    def evaluate(self, pipeline: Pipeline, result: MaterializeResult) -> dg.AssetCheckResult:
        """Judge an output."""
        verdict = self.judge(pipeline, result)
        tables = {name: dg.MetadataValue.md(table) for name, table in verdict.tables.items()}
        return dg.AssetCheckResult(
            check_name=self.judge.__name__,
            passed=verdict.passed,
            severity=WARN if self.warns or verdict.is_warning else ERROR,
            description=verdict.description,
            metadata={**verdict.numbers, **tables},
        )


def blocking_failures(results: Sequence[dg.AssetCheckResult], checks: Sequence[Check]) -> str:
    """Return the descriptions of the failed blocking checks, or an empty string."""
    return "; ".join(
        f"the check '{result.check_name}' failed: {result.description}"
        for result, check in zip(results, checks, strict=True)
        if check.blocking and not result.passed and result.severity == ERROR
    )

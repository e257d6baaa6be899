"""A comparison as a Markdown table, for a terminal or a pull request."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from mobileclip2.config.profile import Profile
from mobileclip2.evaluation.bootstrap import RESAMPLES, Interval
from mobileclip2.evaluation.gate import AVERAGED, Comparison, ComparisonRow
from mobileclip2.evaluation.published import MODELS, Published
from mobileclip2.evaluation.results import MAIN_METRIC
from mobileclip2.report.plots import percent

SMALLEST = "MobileCLIP2-S0"


def published_like(profile: Profile, model: str) -> Published:
    """Return the released model with the student's architecture, or the smallest released model if there is none."""
    students = {student.name: student for student in profile.students}
    student = students.get(model)
    while student and (origin := student.between.to if student.between else student.base):
        student = students.get(origin)
    architecture = student.model if student else None
    return MODELS.get((architecture and architecture.open_clip) or SMALLEST, MODELS[SMALLEST])


def as_markdown(comparison: Comparison, name: str, baseline: str | None, published: Published) -> str:
    """Format a comparison with one row for each metric. Values are in percent, differences and intervals in points."""
    rows = comparison.rows
    shares = [published.shares.get((row.set, MAIN_METRIC if row.metric == AVERAGED else row.metric)) for row in rows]
    columns = [
        ["set", "---", *(row.set for row in rows)],
        ["metric", "---", *(row.metric for row in rows)],
        [name, "--:", *(f"{percent(row.value)} {_span(row.interval)}" for row in rows)],
    ]
    if baseline:
        columns.append([baseline, "--:", *(percent(row.baseline) for row in rows)])
        columns.append(["difference", "--:", *map(_difference, rows)])
    if any(share is not None for share in shares):
        columns.append([f"published {published.name}", "--:", *map(percent, shares)])
    if baseline:
        judged = ("**worse**" if row.failed else "" if row.tolerance is None else "ok" for row in rows)
        columns.append(["", "---", *judged])
    heading = f"### {name}" + (f" against {baseline}" if baseline else "")
    lines = [heading, "", *map(_line, zip(*columns, strict=True)), "", *verdict(comparison, baseline)]
    return "\n".join(lines) + "\n"


def verdict(comparison: Comparison, baseline: str | None) -> Iterator[str]:
    """Yield the lines of the verdict: whether the gate passes, which metrics fail, and the rule."""
    if not baseline:
        yield "No baseline: the gate was not applied."
    elif comparison.failed:
        yield f"**The gate fails.** {len(comparison.failed)} of {len(comparison.judged)} metrics fell below their tolerance:"
        yield ""
        for row in comparison.failed:
            assert row.difference and row.tolerance is not None
            low, high = (percent(-bound) for bound in reversed(row.difference))
            yield f"- {row.set}, {row.metric}: by {low} to {high} points; the tolerance is {percent(row.tolerance)}"
    else:
        yield f"**The gate passes.** 0 of {len(comparison.judged)} metrics fell below their tolerance."
    yield ""
    tolerances = sorted({row.tolerance for row in comparison.judged if row.tolerance is not None})
    points = " or ".join(percent(tolerance) for tolerance in tolerances)
    yield (
        f"Intervals: {RESAMPLES:,} bootstrap resamples of the test samples, seed {comparison.seed}, {comparison.confidence:.0%}"
        + (
            f" (paired for the differences, and simultaneous for all gated metrics). A metric is worse if the complete interval "
            f"of its difference is below −{points} points."
            if baseline
            else "."
        )
    )
    yield from comparison.notes


def _difference(row: ComparisonRow) -> str:
    if row.baseline is None or row.difference is None:
        return "–"
    return f"{100 * (row.value - row.baseline):+.1f} {_span(row.difference, '+')}"


def _span(bounds: Interval, sign: str = "") -> str:
    return "[" + ", ".join(f"{100 * bound:{sign}.1f}" for bound in bounds) + "]"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"

"""A comparison as a Markdown table, for a terminal or a pull request."""

from __future__ import annotations

from collections.abc import Iterator

from mobileclip2.config.profile import Profile
from mobileclip2.config.student import Student
from mobileclip2.evaluation.bootstrap import RESAMPLES, Interval
from mobileclip2.evaluation.gate import AVERAGED, Comparison, ComparisonRow
from mobileclip2.evaluation.published import MODELS, Published
from mobileclip2.evaluation.results import MAIN_METRIC

SMALLEST = "MobileCLIP2-S0"


def published_like(profile: Profile, model: str) -> Published:
    """Return the released model with the student's architecture, or the smallest released model if there is none."""
    students = {student.name: student for student in profile.students}
    while model in students and (origin := _origin(students[model])):
        model = origin
    architecture = students[model].model if model in students else None
    return MODELS.get((architecture and architecture.open_clip) or SMALLEST, MODELS[SMALLEST])


def _origin(student: Student) -> str | None:
    return student.between.to if student.between else student.base


def as_markdown(comparison: Comparison, name: str, baseline: str | None, published: Published) -> str:
    """Format a comparison with one row for each metric. Values are in percent, differences and intervals in points."""
    shares = [published.shares.get((row.set, _published_metric(row))) for row in comparison.rows]
    has_published = any(share is not None for share in shares)
    columns = ["set", "metric", name]
    if baseline:
        columns += [baseline, "difference"]
    if has_published:
        columns.append(f"published {published.name}")
    numbers = len(columns) - 2
    rule = ["---", "---", *["--:"] * numbers]
    if baseline:
        columns, rule = [*columns, ""], [*rule, "---"]
    lines = [f"### {name}" + (f" against {baseline}" if baseline else ""), "", _line(columns), _line(rule)]
    for row, share in zip(comparison.rows, shares, strict=True):
        cells = [row.set, row.metric, f"{_percent(row.value)} {_span(row.interval)}"]
        if baseline:
            cells += [_percent(row.baseline), _difference(row)]
        if has_published:
            cells.append(_percent(share))
        if baseline:
            cells.append("**worse**" if row.failed else "" if row.tolerance is None else "ok")
        lines.append(_line(cells))
    return "\n".join([*lines, "", *verdict(comparison, baseline)]) + "\n"


def verdict(comparison: Comparison, baseline: str | None) -> Iterator[str]:
    """Yield the lines of the verdict: whether the gate passes, which metrics fail, and the rule."""
    if not baseline:
        yield "No baseline: the gate was not applied."
    elif comparison.failed:
        yield f"**The gate fails.** {len(comparison.failed)} of {len(comparison.judged)} metrics fell below their tolerance:"
        yield ""
        for row in comparison.failed:
            assert row.difference and row.tolerance is not None
            low, high = (_percent(-bound) for bound in reversed(row.difference))
            yield f"- {row.set}, {row.metric}: by {low} to {high} points; the tolerance is {_percent(row.tolerance)}"
    else:
        yield f"**The gate passes.** 0 of {len(comparison.judged)} metrics fell below their tolerance."
    yield ""
    tolerances = sorted({row.tolerance for row in comparison.judged if row.tolerance is not None})
    points = " or ".join(_percent(tolerance) for tolerance in tolerances)
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


def _published_metric(row: ComparisonRow) -> str:
    return MAIN_METRIC if row.metric == AVERAGED else row.metric


def _difference(row: ComparisonRow) -> str:
    if row.baseline is None or row.difference is None:
        return "–"
    return f"{100 * (row.value - row.baseline):+.1f} {_span(row.difference, '+')}"


def _span(bounds: Interval, sign: str = "") -> str:
    return "[" + ", ".join(f"{100 * bound:{sign}.1f}" for bound in bounds) + "]"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}"


def _line(cells: list[str]) -> str:
    return f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"

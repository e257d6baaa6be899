"""Colors of plots and pages. They are distinct for every kind of color vision (Okabe and Ito 2008)."""

from __future__ import annotations

SERIES = ("#0072b2", "#d55e00", "#009e73", "#b8589a", "#56b4e9", "#c98a00")
"""series colors on white; the report's dark theme has lighter ones under the names ``--series-<n>``"""
INK = "#1c2430"
MUTED = "#667085"
GRID = "#e3e7ee"
NEUTRAL = "#98a2b3"
PAPER = "#ffffff"


def series(number: int) -> str:
    """Return the color of a series. Colors repeat after the last one."""
    return SERIES[number % len(SERIES)]


VARIABLES = {INK: "--ink", MUTED: "--muted", GRID: "--line", NEUTRAL: "--neutral"} | {
    color: f"--series-{number}" for number, color in enumerate(SERIES)
}
"""CSS variables of the colors in the report's style sheet"""

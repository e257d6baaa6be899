"""Colors of everything that is drawn, told apart with any kind of color vision (Okabe and Ito 2008)."""

from __future__ import annotations

SERIES = ("#0072b2", "#d55e00", "#009e73", "#b8589a", "#56b4e9", "#c98a00")
"""on white; each has a name ``--series-<n>`` and a lighter twin in the report's dark theme"""
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
"""names under which the report's style sheet has the same colors for either theme"""

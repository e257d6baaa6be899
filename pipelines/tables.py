"""Tables, amounts and times as the commands print them."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

NOT_KNOWN = "–"

BYTES = ("B", "kB", "MB", "GB", "TB", "PB")
FLOPS = ("FLOP", "kFLOP", "MFLOP", "GFLOP", "TFLOP", "PFLOP", "EFLOP", "ZFLOP")


def show(shown: Table | str) -> None:
    """Print a table in the width of the terminal, or in 120 columns without one. Print a text as it is."""
    width = None if sys.stdout.isatty() else 120
    Console(width=width, markup=False, emoji=False, highlight=False).print(shown, soft_wrap=isinstance(shown, str))


def new_table(*columns: str, right: tuple[str, ...], title: str | None = None, **options: Any) -> Table:
    """Return a table, with lines if it has a title. The columns ``right`` are aligned to the right. Long words are folded."""
    plain: dict[str, Any] = {} if title else {"box": None, "pad_edge": False}
    table = Table(title=title, **plain, **options)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return table


def amount(value: float | None, units: tuple[str, ...] = BYTES) -> str:
    """Format a number of bytes, or of :data:`FLOPS`, in the largest unit that keeps the number at 1 or above."""
    if value is None:
        return NOT_KNOWN
    power = 0
    while round(value, min(power, 1)) >= 1000 and power + 1 < len(units):
        value, power = value / 1000, power + 1
    return f"{value:,.{min(power, 1)}f} {units[power]}"


def duration(seconds: float | None) -> str:
    """Format a time in seconds, minutes, hours or days."""
    if seconds is None:
        return NOT_KNOWN
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 72 * 3600 else f"{seconds / 86400:,.0f} days"

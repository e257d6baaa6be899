from __future__ import annotations

import pytest

from pipelines.tables import FLOPS, NOT_KNOWN, amount, duration, new_table, show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (999.6, "1.0 kB"),
        (1000, "1.0 kB"),
        (1010, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (1.5e12, "1.5 TB"),
        (2.5e18, "2,500.0 PB"),
        (None, NOT_KNOWN),
    ],
)
def test_an_amount_has_at_most_three_digits_before_the_point(value: float | None, text: str) -> None:
    assert amount(value) == text


def test_flops_have_their_own_units() -> None:
    assert amount(1.01e9, FLOPS) == "1.0 GFLOP" and amount(12, FLOPS) == "12 FLOP"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (89, "89 s"),
        (90, "2 min"),
        (2400, "40 min"),
        (5400, "1.5 h"),
        (71 * 3600, "71.0 h"),
        (72 * 3600, "3 days"),
        (1e9, "11,574 days"),
        (None, NOT_KNOWN),
    ],
)
def test_a_duration_uses_a_readable_unit(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_tables_and_texts_are_printed_verbatim(capsys: pytest.CaptureFixture[str]) -> None:
    table = new_table("name", "count", right=("count",))
    table.add_row("[bold]:smile:", "7")
    show(table)
    show("[red]" + "x" * 100)
    titled = new_table("name", right=(), title="a title")
    titled.add_row("row")
    show(titled)
    lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
    assert lines[:3] == ["name           count", "[bold]:smile:      7", "[red]" + "x" * 100]
    assert "a title" in lines[3] and len(lines) == 9

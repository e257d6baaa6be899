from __future__ import annotations

from importlib.resources import files

from mobileclip2.report.palette import PAPER, SERIES, VARIABLES, series


def luminance(color: str) -> float:
    """Return the relative luminance of WCAG 2.1."""
    channels = [int(color[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_colors_repeat_after_the_last_one() -> None:
    assert len(set(SERIES)) == len(SERIES)
    assert [series(number) for number in range(2 * len(SERIES))] == [*SERIES, *SERIES]


def test_every_color_has_a_variable_in_both_themes_of_the_page() -> None:
    sheets = [file.read_text() for file in files("mobileclip2.report").iterdir() if file.name.endswith(".css")]
    for color, variable in VARIABLES.items():
        assert f"{variable}: {color};" in "".join(sheets)
        assert "".join(sheets).count(f"{variable}: ") >= 2


def test_series_are_visible_on_paper() -> None:
    for color in SERIES:
        assert (luminance(PAPER) + 0.05) / (luminance(color) + 0.05) > 2

from __future__ import annotations

import base64
import io
from pathlib import Path

import pytest
from PIL import Image

from mobileclip2.report.page import Training, accuracy_plots, bar, data_uri, duration, loss_plots, write_page


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "–"), (3.21, "3.2 s"), (59.6, "1 min 0 s"), (245, "4 min 5 s"), (7625, "2 h 7 min")],
)
def test_durations_are_human_readable(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_the_width_of_a_bar_equals_its_share() -> None:
    assert 'width: 25.0%"' in bar(0.25)


def test_images_are_resized_and_embedded_in_the_page() -> None:
    uri = data_uri(Image.new("RGBA", (400, 200)), 100)
    kind, _, data = uri.partition(",")
    assert kind == "data:image/webp;base64"
    assert Image.open(io.BytesIO(base64.b64decode(data))).size == (100, 50)


def test_each_training_and_each_set_has_a_figure() -> None:
    records = [{"step": float(step), "loss": 4 / step, "shapes/acc1": step / 4} for step in range(1, 4)]
    trainings = [Training(name, records, 8) for name in ("one", "two")]
    assert [name for name, _ in loss_plots(trainings)] == ["one", "two"]
    assert len(accuracy_plots(trainings, [])) == 1


def test_a_page_is_written_as_utf8(tmp_path: Path) -> None:
    write_page("<p>–</p>", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_bytes() == b"<p>\xe2\x80\x93</p>"

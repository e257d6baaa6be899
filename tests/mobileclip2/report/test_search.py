from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from mobileclip2.api.search import Ranked
from mobileclip2.report.search import write_search


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    Image.new("RGB", (2000, 1000), "red").save(tmp_path / "large.png")
    return tmp_path / "large.png"


def test_the_page_contains_its_pictures_and_escapes_text(picture: Path, tmp_path: Path) -> None:
    found = [
        ("<b>red</b>", [Ranked(picture, 0.5), Ranked(picture, 0.25)]),
        ("blue", [Ranked(picture, 0.1)]),
    ]
    write_search(found, "m<odel", picture.parent, 1234, tmp_path / "page.html")
    text = (tmp_path / "page.html").read_text()
    assert text.count("<img") == 3 and text.count('src="data:image/webp;base64,') == 3
    assert "&lt;b&gt;red&lt;/b&gt;" in text and "<b>red" not in text and "m&lt;odel" in text
    assert "1,234 pictures" in text and len(text) < 100_000

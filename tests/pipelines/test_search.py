from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.models.build import from_config, save
from pipelines.search import search_pictures
from tests.mobileclip2.models.test_build import TINY
from tests.pictures import jpeg


def test_each_query_has_its_best_pictures_and_bad_ones_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos, page = tmp_path / "model", tmp_path / "photos", tmp_path / "page.html"
    save(from_config({"model_cfg": TINY}), model)
    photos.mkdir()
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(jpeg(number))
    (photos / "bad.jpg").write_bytes(b"no picture")
    assert search_pictures(str(model), ["a cat", str(photos / "1.jpg")], photos, page, 2, 200) == 0
    printed = capsys.readouterr().out
    assert '"a cat"' in printed and "left out: " in printed and "bad.jpg" in printed and f"page: {page}" in printed
    by_picture = printed[printed.index('1.jpg"') :]
    assert by_picture.index("1.000") < by_picture.index("1.jpg", 10)
    assert page.read_text().count("<img") == 4

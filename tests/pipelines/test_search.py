from __future__ import annotations

import os
from pathlib import Path

import pytest

from mobileclip2.models.build import from_config, save
from pipelines.cli import main
from pipelines.search import search_pictures
from tests.mobileclip2.models.test_build import TINY
from tests.pictures import jpeg


@pytest.fixture
def paths(tmp_path: Path) -> tuple[Path, Path, Path]:
    """Return a stored model, an empty folder for pictures, and the path of a page."""
    model, photos = tmp_path / "model", tmp_path / "photos"
    save(from_config({"model_cfg": TINY}), model)
    photos.mkdir()
    return model, photos, tmp_path / "page.html"


def test_each_query_has_its_best_pictures_and_bad_ones_are_named(
    paths: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos, page = paths
    for number in range(3):
        (photos / f"{number}.jpg").write_bytes(jpeg(number))
    (photos / "bad.jpg").write_bytes(b"no picture")
    search_pictures(str(model), photos / "no.yaml", ["a cat", str(photos / "1.jpg")], photos, page, 2)
    printed = capsys.readouterr().out
    assert '"a cat"' in printed and "left out: " in printed and "bad.jpg" in printed and f"page: {page}" in printed
    by_picture = printed[printed.index('1.jpg"') :]
    assert by_picture.index("1.000") < by_picture.index("1.jpg", 10)
    assert page.read_text().count("<img") == 4


def test_texts_and_file_names_with_special_characters_are_shown(
    paths: tuple[Path, Path, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    model, photos, page = paths
    for name in ("[red] :cat:.jpg", os.fsdecode(b"caf\xe9.jpg")):
        (photos / name).write_bytes(jpeg(1))
    (photos / os.fsdecode(b"bad\xe9.jpg")).write_bytes(b"no picture")
    long = "a long text " * 30
    assert main(["search", str(model), "a [/b] c", long, str(photos), "--page", str(page)]) == 0
    printed = capsys.readouterr().out
    for text in ('"a [/b] c"', "a long text a long text", "[red] :cat:.jpg", r"caf\udce9.jpg", r"bad\udce9.jpg"):
        assert text in printed
    assert r"caf\udce9.jpg" in page.read_text(encoding="utf-8")

"""A folder is searched by text and by picture; unreadable pictures are left out and reported."""

from __future__ import annotations

import pytest

import mobileclip2
from mobileclip2.api.search import index, search
from mobileclip2.errors import UserError
from mobileclip2.report.search import write_search
from tests.pictures import jpeg


@pytest.fixture
def photos(tmp_path):
    (tmp_path / "photos" / "deep").mkdir(parents=True)
    for number in range(4):
        (tmp_path / "photos" / ("deep" if number % 2 else ".") / f"{number}.jpg").write_bytes(jpeg(number))
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no picture")
    return tmp_path / "photos"


def test_a_search_ranks_every_readable_picture_and_writes_a_page(folder, photos, tmp_path):
    model = mobileclip2.load(folder)
    indexed = index(model, photos)
    assert len(indexed.paths) == 4
    assert "bad.jpg" in indexed.unreadable[0]
    found = search(model, photos / "deep" / "1.jpg", indexed, top=3)
    assert (len(found), found[0].path) == (3, photos / "deep" / "1.jpg")
    page = tmp_path / "search.html"
    write_search([("<b>a text</b>", found)], "tiny", photos, 4, page)
    assert page.read_text().count("<img") == 3
    assert "<b>a text</b>" not in page.read_text()


def test_a_folder_without_pictures_is_refused(folder, tmp_path):
    model = mobileclip2.load(folder)
    with pytest.raises(UserError, match="no readable picture"):
        index(model, tmp_path)
    with pytest.raises(UserError, match="there is no such folder"):
        index(model, tmp_path / "gone")

"""Imports write shards that the pipeline reads, count what is bad, and continue after a kill."""

from __future__ import annotations

import csv
import hashlib
import json

import pytest

from mobileclip2.config.filters import Filters
from mobileclip2.data.importing import shards
from mobileclip2.data.importing.folders import ClassFolders
from mobileclip2.data.importing.row import read_picture
from mobileclip2.data.importing.shards import import_shards
from mobileclip2.data.importing.tables import Table
from mobileclip2.data.tar import read_samples
from mobileclip2.data.validate import validate_shard
from mobileclip2.errors import UserError
from tests.pictures import jpeg, picture


@pytest.fixture
def table(tmp_path):
    """Twelve rows, two of them bad."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for number in range(10):
        (photos / f"{number}.jpg").write_bytes(jpeg(number))
    (photos / "3.jpg").write_bytes(b"no picture")
    rows = [(f"{number}.jpg", f"caption {number}") for number in range(10)]
    with (tmp_path / "captions.csv").open("w") as file:
        csv.writer(file).writerows([("image", "caption"), *rows, ("gone.jpg", "x"), ("0.jpg", "second caption")])
    return Table(tmp_path / "captions.csv", photos)


def valid(folder):
    found = []
    for tar in sorted(folder.glob("*.tar")):
        with tar.open("rb") as file:
            shard = validate_shard(read_samples(file, tar.name), Filters())
        assert shard.skipped.num_rows == 0
        found += shard.table.column("caption").to_pylist()
    return found


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_every_good_row_is_read_back_and_every_bad_row_is_counted(table, tmp_path):
    imported = import_shards(table, tmp_path / "shards", rows_a_shard=5)
    assert (imported.shards, imported.rows, imported.samples) == (3, 12, 10)
    assert dict(imported.skipped) == {"not-an-image": 1, "missing-image": 1}
    assert valid(tmp_path / "shards") == [f"caption {n}" for n in range(10) if n != 3] + ["second caption"]
    bad = json.loads((tmp_path / "shards" / "00002.json").read_text())["skipped"]
    assert [(row["reason"], "gone.jpg" in row["source"]) for row in bad] == [("missing-image", True)]


def test_a_killed_import_continues_and_gives_the_same_bytes(table, tmp_path, monkeypatch):
    import_shards(table, tmp_path / "whole", rows_a_shard=5)
    original = shards._write_shard

    def killed(tar, shard, *arguments):
        if shard == 1:
            raise KeyboardInterrupt
        return original(tar, shard, *arguments)

    monkeypatch.setattr(shards, "_write_shard", killed)
    with pytest.raises(KeyboardInterrupt):
        import_shards(table, tmp_path / "killed", rows_a_shard=5)
    monkeypatch.undo()
    imported = import_shards(table, tmp_path / "killed", rows_a_shard=5)
    assert (imported.reused, imported.samples) == (1, 10)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def test_another_table_is_refused_and_nothing_is_lost(table, tmp_path):
    import_shards(table, tmp_path / "shards")
    before = hashes(tmp_path / "shards")
    with (tmp_path / "captions.csv").open("a") as file:
        file.write("1.jpg,one more\n")
    with pytest.raises(UserError, match="an import of other rows"):
        import_shards(Table(table.path, table.folder), tmp_path / "shards")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("my notes")
    with pytest.raises(UserError, match="not empty"):
        import_shards(table, tmp_path / "mine")
    assert hashes(tmp_path / "shards") == before


def test_an_import_without_a_usable_row_says_why(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\nhttps://example.org/a.jpg,x\n")
    with pytest.raises(UserError, match="none of the 1 rows can be used") as raised:
        import_shards(Table(tmp_path / "t.csv"), tmp_path / "shards")
    assert "img2dataset" in str(raised.value)


def test_classes_become_captions_by_the_templates_in_turn(tmp_path):
    for number, name in enumerate(["tabby_cat", "tabby_cat", "fox"]):
        (tmp_path / "classes" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "classes" / name / f"{number}.jpg").write_bytes(jpeg(number))
    import_shards(ClassFolders(tmp_path / "classes"), tmp_path / "shards", templates=["a {c}.", "one {c}."])
    assert valid(tmp_path / "shards") == ["a fox.", "one tabby cat.", "a tabby cat."]


@pytest.mark.parametrize("kind", ["BMP", "GIF", "TIFF", "PNG", "WEBP", "JPEG"])
def test_pictures_of_other_formats_become_png(kind, tmp_path):
    picture(1).save(tmp_path / "picture.any", kind)
    extension, data = read_picture(tmp_path / "picture.any")
    same = kind in {"PNG", "WEBP", "JPEG"}
    assert extension == ({"JPEG": "jpg"}.get(kind, kind.lower()) if same else "png")
    assert (data == (tmp_path / "picture.any").read_bytes()) == same


def test_shards_do_not_depend_on_the_folder_of_the_pictures(tmp_path):
    for place in ("one", "deep/two"):
        folder = tmp_path / place
        (folder / "classes" / "cat").mkdir(parents=True)
        (folder / "classes" / "cat" / "a.jpg").write_bytes(jpeg(0))
        import_shards(ClassFolders(folder / "classes"), folder / "shards", templates=["a {c}"])
    one, two = (tmp_path / place / "shards" / "00000.tar" for place in ("one", "deep/two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_folder_is_free_again_after_an_import_without_a_usable_row(table, tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\ngone.jpg,x\n")
    (tmp_path / "empty.csv").write_text("image,caption\n")
    for name, message in (("t.csv", "none of the 1 rows"), ("empty.csv", "nothing to import")):
        with pytest.raises(UserError, match=message):
            import_shards(Table(tmp_path / name), tmp_path / "shards")
    assert import_shards(table, tmp_path / "shards").samples == 10

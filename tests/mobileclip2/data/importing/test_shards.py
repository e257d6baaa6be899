"""Imports write shards that the pipeline reads, count bad rows, and continue after a kill."""

from __future__ import annotations

import csv
import hashlib
import json
import os

import pytest

from mobileclip2.config.filters import Filters
from mobileclip2.data.importing import shards
from mobileclip2.data.importing.folders import captioned_folder, class_folders
from mobileclip2.data.importing.row import read_picture
from mobileclip2.data.importing.shards import import_shards
from mobileclip2.data.importing.tables import Table
from mobileclip2.data.tar import read_samples
from mobileclip2.data.validate import validate_shard
from mobileclip2.errors import UserError
from tests.pictures import jpeg, picture


@pytest.fixture
def table(tmp_path):
    """Return a table of twelve rows. Two rows are bad."""
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
            table, skipped = validate_shard(read_samples(file, tar.name), Filters())
        assert skipped.num_rows == 0
        found += table.column("caption").to_pylist()
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
    original = shards.write_tar

    def killed(tar, *arguments):
        if tar.stem == "00001":
            raise KeyboardInterrupt
        return original(tar, *arguments)

    monkeypatch.setattr(shards, "write_tar", killed)
    with pytest.raises(KeyboardInterrupt):
        import_shards(table, tmp_path / "killed", rows_a_shard=5)
    monkeypatch.undo()
    imported = import_shards(table, tmp_path / "killed", rows_a_shard=5)
    assert (imported.reused, imported.samples) == (1, 10)
    assert hashes(tmp_path / "killed") == hashes(tmp_path / "whole")


def test_another_table_is_refused_and_all_files_are_kept(table, tmp_path):
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


def caption(folder):
    (folder / "0.txt").write_text("changed")


def picture_of_the_same_size(folder):
    data = (folder / "0.jpg").read_bytes()
    (folder / "0.jpg").write_bytes(data[:-1] + b"\0")


def missing_picture(folder):
    (folder / "2.jpg").write_bytes(jpeg(2))


def row(folder):
    (folder / "captions.csv").write_text("image,caption\n1.jpg,one\n0.jpg,zero\n2.jpg,two\n")


def fewer_rows(folder):
    (folder / "captions.csv").write_text("image,caption\n0.jpg,zero\n")


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (captioned_folder, caption),
        (captioned_folder, picture_of_the_same_size),
        (class_folders, picture_of_the_same_size),
        (Table, picture_of_the_same_size),
        (Table, missing_picture),
        (Table, row),
        (Table, fewer_rows),
    ],
)
def test_changed_rows_and_pictures_are_detected(tmp_path, kind, change):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(2):
        (folder / f"{number}.jpg").write_bytes(jpeg(number))
        (folder / f"{number}.txt").write_text(str(number))
    (folder / "captions.csv").write_text("image,caption\n0.jpg,zero\n2.jpg,two\n")
    target = tmp_path if kind is class_folders else folder / "captions.csv" if kind is Table else folder
    for _ in range(2):
        import_shards(kind(target), tmp_path / "o" / "shards", templates=["a {c}"], rows_a_shard=1)
    before = hashes(tmp_path / "o" / "shards")
    change(folder)
    with pytest.raises(UserError, match="holds an import of other rows or pictures"):
        import_shards(kind(target), tmp_path / "o" / "shards", templates=["a {c}"], rows_a_shard=1)
    assert hashes(tmp_path / "o" / "shards") == before


def test_another_encoding_is_another_import(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "t.csv").write_bytes(b"image,caption\na.jpg,ma\xb3y kot\n")
    import_shards(Table(tmp_path / "t.csv"), tmp_path / "shards")
    with pytest.raises(UserError, match="an import of other rows"):
        import_shards(Table(tmp_path / "t.csv", encoding="cp1250"), tmp_path / "shards")


def test_only_rows_added_after_full_shards_are_imported(table, tmp_path):
    import_shards(table, tmp_path / "shards", rows_a_shard=6)
    with table.path.open("a") as file:
        file.write("1.jpg,one more\n")
    imported = import_shards(table, tmp_path / "shards", rows_a_shard=6)
    assert (imported.shards, imported.reused) == (3, 2)
    assert valid(tmp_path / "shards")[-1] == "one more"


@pytest.mark.parametrize("damaged", ['{"rows": 2', "[]", "{}", "\udcff"])
def test_a_damaged_count_file_is_rewritten(table, tmp_path, damaged):
    import_shards(table, tmp_path / "shards", rows_a_shard=5)
    before = hashes(tmp_path / "shards")
    (tmp_path / "shards" / "00001.json").write_text(damaged, errors="surrogateescape")
    assert import_shards(table, tmp_path / "shards", rows_a_shard=5).reused == 2
    assert hashes(tmp_path / "shards") == before


def test_a_caption_that_is_not_unicode_is_counted(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    lines = [{"image": "a.jpg", "caption": text} for text in ("a cat \ud83d", "a dog")]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    imported = import_shards(Table(tmp_path / "t.jsonl"), tmp_path / "shards")
    assert (imported.samples, dict(imported.skipped)) == (1, {"bad-encoding": 1})


def test_a_bad_picture_whose_name_is_not_utf8_is_listed(tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "ok.jpg").write_bytes(jpeg(0))
    (tmp_path / "photos" / "ok.txt").write_text("a cat")
    (tmp_path / "photos" / os.fsdecode(b"caf\xe9.jpg")).write_bytes(jpeg(1))
    for _ in range(2):
        imported = import_shards(captioned_folder(tmp_path / "photos"), tmp_path / "shards")
        assert dict(imported.skipped) == {"missing-caption": 1}
    (bad,) = json.loads((tmp_path / "shards" / "00000.json").read_text())["skipped"]
    assert bad["source"].endswith("caf\udce9.jpg")


def test_imported_files_do_not_contain_secrets_of_urls(tmp_path):
    name = "https:/joe:hun%40ter2@host/a.jpg?X-Amz-Signature=hunter2"
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / name).write_bytes(jpeg(0))
    names = (name, f"https:/{name.removeprefix('https:')}", f"s3:/{name.removeprefix('https:')}")
    (tmp_path / "t.csv").write_text("url,caption\n" + "".join(f"{each},x\n" for each in names))
    imported = import_shards(Table(tmp_path / "t.csv"), tmp_path / "shards")
    assert dict(imported.skipped) == {"image-is-url": 1, "missing-image": 1}
    written = b"".join(path.read_bytes() for path in (tmp_path / "shards").iterdir())
    assert b"host/a.jpg" in written and b"ter2" not in written and "ter2" not in imported.reasons()


def test_an_import_without_a_usable_row_reports_the_reason(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\nhttps://example.org/a.jpg,x\n")
    with pytest.raises(UserError, match="none of the 1 rows can be used") as raised:
        import_shards(Table(tmp_path / "t.csv"), tmp_path / "shards")
    assert "img2dataset" in str(raised.value)


def test_captions_of_classes_use_the_templates_in_turn(tmp_path):
    for number, name in enumerate(["tabby_cat", "tabby_cat", "fox"]):
        (tmp_path / "classes" / name).mkdir(parents=True, exist_ok=True)
        (tmp_path / "classes" / name / f"{number}.jpg").write_bytes(jpeg(number))
    import_shards(class_folders(tmp_path / "classes"), tmp_path / "shards", templates=["a {c}.", "one {c}."])
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
        import_shards(class_folders(folder / "classes"), folder / "shards", templates=["a {c}"])
    one, two = (tmp_path / place / "shards" / "00000.tar" for place in ("one", "deep/two"))
    assert one.read_bytes() == two.read_bytes()


def test_a_table_without_the_columns_leaves_no_folder(tmp_path):
    (tmp_path / "t.csv").write_text("image,caption,caption\na.jpg,x,y\n")
    with pytest.raises(UserError, match="2 columns have the name 'caption'"):
        import_shards(Table(tmp_path / "t.csv"), tmp_path / "shards")
    assert not (tmp_path / "shards").exists()


def test_a_folder_can_be_reused_after_an_import_without_a_usable_row(table, tmp_path):
    (tmp_path / "t.csv").write_text("image,caption\ngone.jpg,x\n")
    (tmp_path / "empty.csv").write_text("image,caption\n")
    for name, message in (("t.csv", "none of the 1 rows"), ("empty.csv", "nothing to import")):
        with pytest.raises(UserError, match=message):
            import_shards(Table(tmp_path / name), tmp_path / "shards")
    assert import_shards(table, tmp_path / "shards").samples == 10

"""``open_rows`` detects what a path contains. An error for any other path says how to continue."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobileclip2.data.importing.open_rows import open_rows
from mobileclip2.data.tar import TarWriter
from mobileclip2.errors import UserError
from tests.pictures import jpeg


def test_pictures_and_captions_in_the_files_format_of_img2dataset(tmp_path):
    (tmp_path / "00000").mkdir()
    for number in range(2):
        (tmp_path / "00000" / f"{number:09d}.jpg").write_bytes(jpeg(number))
        (tmp_path / "00000" / f"{number:09d}.txt").write_text(f"caption {number}")
    (tmp_path / "00000" / "000000002.jpg").write_bytes(jpeg(2))
    (tmp_path / "00000" / "000000002.json").write_text(json.dumps({"caption": "from json"}))
    (tmp_path / "00000" / "000000003.jpg").write_bytes(jpeg(3))
    rows = list(open_rows(tmp_path))
    assert [row.captions for row in rows] == [("caption 0",), ("caption 1",), ("from json",), ()]
    assert rows[3].fault.reason == "missing-caption"


def test_a_table_inside_the_folder_describes_its_pictures(tmp_path):
    (tmp_path / "a.jpg").write_bytes(jpeg(0))
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"file_name": "a.jpg", "text": "x"}))
    assert [row.captions for row in open_rows(tmp_path)] == [("x",)]


@pytest.mark.parametrize("table", ["test/metadata.csv", "train/metadata.jsonl", "train/2026/captions.parquet"])
def test_tables_in_subfolders_are_refused(tmp_path, table):
    for name in ("train/2026/a.jpg", "test/b.jpg"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(jpeg(0))
    (tmp_path / table).touch()
    with pytest.raises(UserError, match=rf"the table \S+{table} lies in a subfolder; import \S+ alone, name"):
        open_rows(tmp_path)


def test_json_files_in_class_folders_are_not_tables(tmp_path):
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.jpg").write_bytes(jpeg(0))
        (tmp_path / name / "metadata.json").write_text("{}")
    assert [row.label for row in open_rows(tmp_path)] == ["cat", "dog"]


def test_parquet_files_of_a_folder_are_read_in_order(tmp_path):
    for number in range(2):
        pq.write_table(pa.table({"jpg": [jpeg(number)], "caption": [str(number)]}), tmp_path / f"{number}.parquet")
    assert [row.captions for row in open_rows(tmp_path)] == [("0",), ("1",)]


def tar(folder):
    with TarWriter(folder / "0.tar") as writer:
        writer.write("a", {"jpg": jpeg(0), "txt": b"x"})
    return folder


def lone_picture(folder):
    (folder / "a.jpg").write_bytes(jpeg(0))
    return folder


def few_in_a_subfolder(folder):
    (folder / "more").mkdir()
    for name in ("a", "b", "more/c"):
        (folder / f"{name}.jpg").write_bytes(jpeg(0))
    return folder


def compressed(folder):
    (folder / "a.tar.gz").write_bytes(b"x")
    return folder


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (tar, "these tars are shards already"),
        (lone_picture, "1 pictures and no captions"),
        (few_in_a_subfolder, "3 pictures and no captions"),
        (compressed, "compressed archives are not read"),
        (lambda folder: folder, "no pictures and no table"),
        (lambda folder: folder / "gone", "there is no such file or folder"),
    ],
)
def test_an_unusable_path_is_refused_with_advice(tmp_path, make, message):
    with pytest.raises(UserError, match=message):
        open_rows(make(tmp_path))

"""Tables in every supported format give the same rows."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobileclip2.data.importing.tables import Columns, Table
from mobileclip2.errors import UserError
from tests.pictures import jpeg

ROWS = [("a.jpg", "a red, round bicycle"), ("b.jpg", 'she said "hello"'), ("c.jpg", "müde Straße")]


@pytest.fixture
def folder(tmp_path):
    for number, (name, _) in enumerate(ROWS):
        (tmp_path / name).write_bytes(jpeg(number))
    return tmp_path


def quoted(delimiter: str) -> str:
    lines = [delimiter.join(("filepath", "title"))]
    for name, caption in ROWS:
        escaped = caption.replace('"', '""')
        lines.append(f'{name}{delimiter}"{escaped}"')
    return "\n".join(lines)


def write(folder, kind):
    records = [{"image": name, "caption": caption} for name, caption in ROWS]
    path = folder / f"table.{kind.partition('-')[0]}"
    if kind == "parquet":
        pq.write_table(pa.Table.from_pylist(records), path)
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, records)))
    else:
        delimiter = {"csv": ",", "csv-semicolon": ";", "tsv": "\t", "csv-pipe": "|"}.get(kind, ",")
        encoding = {"csv-bom": "utf-8-sig", "csv-latin": "cp1252", "csv-utf16": "utf-16"}.get(kind, "utf-8")
        path.write_bytes(quoted(delimiter).encode(encoding))
    return path


@pytest.mark.parametrize(
    "kind", ["csv", "csv-semicolon", "csv-pipe", "csv-bom", "csv-latin", "csv-utf16", "tsv", "jsonl", "parquet"]
)
def test_each_kind_of_table_gives_the_same_rows(folder, kind):
    rows = list(Table(write(folder, kind), folder))
    assert [(row.image, row.captions) for row in rows] == [(folder / name, (caption,)) for name, caption in ROWS]


def test_a_table_without_header_is_recognized_by_its_picture_names(folder):
    (folder / "t.csv").write_text("a.jpg,first\nb.jpg,second\n")
    assert [row.captions for row in Table(folder / "t.csv")] == [("first",), ("second",)]


def test_lists_and_numbered_columns_give_several_captions(folder):
    pq.write_table(pa.table({"image": ["a.jpg"], "captions": [["one", "two"]]}), folder / "t.parquet")
    (folder / "t.csv").write_text("image,caption_1,caption_2\na.jpg,one,two\n")
    for name in ("t.parquet", "t.csv"):
        assert [row.captions for row in Table(folder / name)] == [("one", "two")]


def test_byte_columns_of_parquet_are_pictures(folder):
    pq.write_table(pa.table({"jpg": [jpeg(0)], "caption": ["x"]}), folder / "t.parquet")
    assert [row.image for row in Table(folder / "t.parquet")] == [jpeg(0)]


def test_a_json_field_that_first_occurs_late_is_a_column(folder):
    lines = [{"image": "a.jpg"}] * 150 + [{"image": "a.jpg", "caption": "late"}]
    (folder / "t.jsonl").write_text("\n".join(map(json.dumps, lines)))
    for columns in (Columns(), Columns(captions=("caption",))):
        assert [row.captions for row in Table(folder / "t.jsonl", columns=columns)] == [()] * 150 + [("late",)]


@pytest.mark.parametrize("text", [7, 1.5, True, {"raw": "x"}, ["x", 7], float("nan")])
def test_a_caption_that_is_not_text_is_reported(folder, text):
    (folder / "t.jsonl").write_text(json.dumps({"image": "a.jpg", "text": text}))
    (row,) = Table(folder / "t.jsonl")
    assert row.fault.reason == "invalid-caption" and "is of type" in str(row.fault)


def test_missing_captions_of_a_list_are_left_out(folder):
    (folder / "t.jsonl").write_text('{"image": "a.jpg", "text": ["x", null, "y"]}')
    assert [row.captions for row in Table(folder / "t.jsonl")] == [("x", "y")]


def test_a_field_that_occurs_twice_makes_a_bad_line(folder):
    (folder / "t.jsonl").write_text('{"image": "a", "caption": "x"}\n{"image": "a", "caption": "x", "caption": "y"}\n')
    good, bad = Table(folder / "t.jsonl")
    assert good.fault is None and bad.fault.reason == "bad-json"
    assert "line 2: the field 'caption' occurs twice" in str(bad.fault)


def test_bad_lines_are_rows_with_a_reason(folder):
    (folder / "t.jsonl").write_text('{"image": "a.jpg", "caption": "x"}\n{broken\n[1]\n')
    assert [row.fault and row.fault.reason for row in Table(folder / "t.jsonl")] == [None, "bad-json", "bad-json"]
    (folder / "t.csv").write_text("image,caption\na.jpg,x\nb.jpg,one, two\n")
    assert [row.fault and row.fault.reason for row in Table(folder / "t.csv")] == [None, "bad-row"]


@pytest.mark.parametrize(
    ("written", "name", "reason"),
    [
        ({"bytes": "abc"}, None, None),
        ({"bytes": "abc", "path": "a.jpg"}, "a.jpg", None),
        ({"path": {"path": "a.jpg"}}, None, "missing-image"),
        (["a.jpg"], None, "missing-image"),
        (5, "5", None),
    ],
)
def test_a_picture_is_bytes_or_a_name(folder, written, name, reason):
    (folder / "t.jsonl").write_text(json.dumps({"image": written, "caption": "x"}))
    (row,) = Table(folder / "t.jsonl")
    assert row.image == (folder / name if name else None)
    assert (row.fault and row.fault.reason) == reason


@pytest.mark.parametrize("encoding", ["utf-16", "idna", "undefined", "nonsense"])
def test_an_unusable_encoding_is_reported(folder, encoding):
    (folder / "t.csv").write_text("image,caption\na.jpg,x\n")
    with pytest.raises(UserError, match="--encoding"):
        list(Table(folder / "t.csv", encoding=encoding))


def test_a_row_without_captions_needs_a_class(folder):
    (folder / "t.csv").write_text("image,label\na.jpg,\nb.jpg,dog\n")
    assert [row.fault and row.fault.reason for row in Table(folder / "t.csv")] == ["no-class", None]


def test_urls_are_refused_with_the_name_of_a_download_tool(folder):
    (folder / "t.csv").write_text("url,caption\nhttps://example.org/a.jpg,x\n")
    (row,) = Table(folder / "t.csv")
    assert row.fault.reason == "image-is-url"
    assert "img2dataset" in row.fault.detail


def test_names_without_folder_or_extension_are_found_in_subfolders(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "d.jpg").write_bytes(jpeg(4))
    (folder / "t.csv").write_text("image,caption\nd,x\nd.jpg,y\n")
    assert [row.image for row in Table(folder / "t.csv", folder)] == [folder / "deep" / "d.jpg"] * 2


@pytest.mark.parametrize(
    "written",
    [
        "deep\\D.JPG",
        "DEEP/d.jpg",
        "photos\\deep\\d.jpg",
        r"C:\Users\me\photos\deep\d.JPG",
        "/home/me/deep/d.jpg",
        "deep/d",
    ],
)
def test_paths_of_another_machine_are_found(folder, written):
    (folder / "deep").mkdir()
    (folder / "deep" / "d.jpg").write_bytes(jpeg(4))
    (folder / "t.csv").write_text(f"image,caption\n{written},x\n")
    (row,) = Table(folder / "t.csv", folder, Columns(image="image"))
    assert row.image == folder / "deep" / "d.jpg"


def test_a_missing_picture_is_never_taken_from_another_folder(folder):
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        (folder / name / f"{name}.jpg").write_bytes(jpeg(4))
        (folder / name / "1.jpg").write_bytes(jpeg(5))
    (folder / "t.csv").write_text("image,caption\ndog/cat.jpg,x\n1.jpg,y\ncat.jpg,z\n")
    missing, ambiguous, found = Table(folder / "t.csv", folder)
    assert missing.image == folder / "dog" / "cat.jpg"
    assert ambiguous.fault.reason == "ambiguous-image" and "write the folder" in ambiguous.fault.detail
    assert found.image == folder / "cat" / "cat.jpg"


@pytest.mark.parametrize("damaged", [b"the caption", b"a text of a row"])
def test_parquet_that_is_not_utf8_is_reported_with_its_path(folder, damaged):
    path = folder / "t.parquet"
    table = pa.table({"image": ["a.jpg"], "the caption": ["a text of a row"]})
    pq.write_table(table, path, compression="none", use_dictionary=False, store_schema=False)
    data = path.read_bytes()
    assert damaged in data
    path.write_bytes(data.replace(damaged, b"\xe9" + damaged[1:]))
    with pytest.raises(UserError, match=r"t\.parquet: (not a Parquet file|the table is damaged)"):
        list(Table(path, columns=Columns(captions=("the caption",))))


def test_a_large_parquet_table_is_not_kept_in_memory(folder):
    pictures = [bytes([n % 256]) * 100_000 for n in range(200)]
    table = pa.table({"image": pictures, "caption": [str(n) for n in range(200)]})
    pq.write_table(table, folder / "t.parquet", row_group_size=5, compression="none", use_dictionary=False)
    del table
    before = pa.total_allocated_bytes()
    highest = 0
    for _ in Table(folder / "t.parquet"):
        highest = max(highest, pa.total_allocated_bytes() - before)
    assert highest < 4_000_000, "the file has 20 MB"


@pytest.mark.parametrize(
    ("text", "columns", "message"),
    [
        (
            "a,b\n1,2\n",
            Columns(),
            "no column looks like pictures and none like captions or classes; it has a, b. Name it with --image-column, "
            "and with --caption-column or --label-column",
        ),
        ("a,text\n1,2\n", Columns(), "no column looks like pictures; it has a, text. Name it with --image-column"),
        ("image,b\n1,2\n", Columns(), "no column looks like captions or classes"),
        ("image,caption\n1,2\n", Columns(image="imag"), "there is no column 'imag'; did you mean 'image'"),
        ("", Columns(), "the table is empty"),
        ("image,caption,caption \na.jpg,1,2\n", Columns(), "2 columns have the name 'caption'; give each"),
        ("a.jpg,b.jpg,one\n", Columns(), "2 columns have the name 'image'"),
    ],
)
def test_missing_or_duplicate_columns_are_reported(folder, text, columns, message):
    (folder / "t.csv").write_text(text)
    with pytest.raises(UserError, match=r"t\.csv") as raised:
        list(Table(folder / "t.csv", folder, columns))
    assert message in str(raised.value)


def test_an_undecodable_character_makes_its_row_bad(folder):
    (folder / "t.csv").write_bytes(b"image,caption\na.jpg,caf\xe9\nb.jpg,tea\n")
    rows = list(Table(folder / "t.csv", encoding="utf-8"))
    assert [row.fault and row.fault.reason for row in rows] == ["bad-encoding", None]
    assert [row.captions for row in Table(folder / "t.csv")] == [("café",), ("tea",)]


def test_a_caption_in_the_column_of_the_pictures_is_a_bad_row(folder):
    (folder / "t.csv").write_text(f"image,caption\n{'long ' * 100},x\n")
    assert [row.fault and row.fault.reason for row in Table(folder / "t.csv")] == ["missing-image"]


@pytest.mark.parametrize("damage", [b"", b"PAR1 no table PAR1", None])
def test_a_damaged_parquet_table_is_reported(folder, damage):
    path = folder / "t.parquet"
    pq.write_table(pa.table({"image": ["a.jpg"] * 5000, "caption": [str(n) for n in range(5000)]}), path)
    data = path.read_bytes()
    path.write_bytes(data[:60] + bytes(40) + data[100:] if damage is None else damage)
    with pytest.raises(UserError, match=r"t\.parquet"):
        list(Table(path))


def test_a_json_document_is_not_a_table(folder):
    (folder / "t.json").write_text('{\n"images": [\n1\n]\n}\n')
    with pytest.raises(UserError, match="no line is a JSON object"):
        list(Table(folder / "t.json"))

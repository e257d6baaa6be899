"""An input of the wrong type is reported with the command that makes the right type."""

from __future__ import annotations

import gzip
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from demo.tars import write_tar
from mobileclip2.api import check_data
from mobileclip2.api.check_data import OpenedShards, open_evaluation_set, open_reinforced, open_shards
from mobileclip2.config.filters import Filters
from mobileclip2.config.profile import parse
from mobileclip2.engine.listing import list_files
from mobileclip2.engine.source_inventory import SourceInventory
from mobileclip2.errors import ShardError, UserError
from tests.test_docs import SMALLEST
from tests.tiny import CLASSES, draw, encode

JPEG = encode(draw("red square", "check"))


def tar(folder: Path, *names: str, samples: int = 3) -> None:
    """Write a shard whose samples have these members."""
    content = {"jpg": JPEG, "txt": b"a red square", "cls": b"0", "json": b"{}"}
    members = [(f"{n}.{name}", content.get(name, b"0")) for n in range(samples) for name in names]
    write_tar(folder / "00000.tar", members)


def pictures(folder: Path) -> None:
    for number in range(3):
        (folder / f"{number}.jpg").write_bytes(JPEG)


def captioned(folder: Path) -> None:
    pictures(folder)
    for number in range(3):
        (folder / f"{number}.txt").write_text("a red square")


def class_folders(folder: Path) -> None:
    for label in ("cat", "dog"):
        (folder / label).mkdir()
        (folder / label / "1.jpg").write_bytes(JPEG)


def table(folder: Path) -> None:
    pictures(folder)
    (folder / "captions.csv").write_text("file,caption\n0.jpg,a red square\n")


def compressed(folder: Path) -> None:
    tar(folder, "jpg", "txt")
    (folder / "00000.tar.gz").write_bytes(gzip.compress((folder / "00000.tar").read_bytes()))
    (folder / "00000.tar").unlink()


def misnamed(folder: Path) -> None:
    compressed(folder)
    (folder / "00000.tar.gz").rename(folder / "00000.tar")


def evaluation_set(folder: Path) -> None:
    (folder / "classnames.txt").write_text("cat\n")


def cut_off(folder: Path) -> None:
    (folder / "00000.tar").write_bytes(b"\0" * 100)


IMPORT = "mobileclip2 import"


def opened(folder: Path) -> OpenedShards:
    values = {**SMALLEST, "sources": [{"name": "mine", "url": str(folder)}]}
    profile = parse(yaml.safe_dump(values), origin=folder.parent / "profile.yaml")
    field = "source 'mine'"
    files = SourceInventory(profile).list_shards(field, str(folder), "**/*.tar", "sources")
    return open_shards(field, files, Filters())


WRONG_SOURCES: list[tuple[Callable[[Path], None], list[str]]] = [
    (lambda folder: folder.rmdir(), ["it does not exist; check 'sources'"]),
    (pictures, ["it has pictures such as '0.jpg'", f"{IMPORT} {{folder}} --captions TABLE -o shards/"]),
    (captioned, [f"run: {IMPORT} {{folder}} -o shards/"]),
    (class_folders, [f"run: {IMPORT} {{folder}} -o shards/"]),
    (table, [f"run: {IMPORT} {{folder}} -o shards/"]),
    (compressed, ["it has compressed tars such as '00000.tar.gz'", "gunzip --keep"]),
    (misnamed, ["00000.tar: ", "not a tar"]),
    (cut_off, ["00000.tar: "]),
    (evaluation_set, ["it is an evaluation set; name it under 'evaluation'"]),
    (lambda folder: tar(folder, "txt"), ["texts (txt) and no pictures", f"{IMPORT} PICTURES/ --captions TABLE"]),
    (lambda folder: tar(folder, "npy"), ["no pictures, only npy", f"{IMPORT} PICTURES/ --captions TABLE"]),
    (lambda folder: tar(folder, "jpg"), ["pictures without captions", f"{IMPORT} PICTURES/ --captions TABLE"]),
    (lambda folder: tar(folder, "jpg", "cls"), ["class numbers (cls) and no captions", f"{IMPORT} CLASSES/"]),
    (lambda folder: tar(folder, "syn.json", "paug.json", "npz"), ["reinforced samples (npz, paug.json, syn.json)"]),
    (lambda folder: tar(folder, "jpg", "txt", samples=0), ["the tar contains no sample"]),
    (
        lambda folder: write_tar(folder / "0.tar", [("1.jpg", JPEG[:50]), ("1.txt", b"a cat")]),
        ["none of the first 1 samples is usable", "image: 1", "'1': "],
    ),
]


@pytest.mark.parametrize(("make", "said"), WRONG_SOURCES)
def test_a_wrong_source_type_is_reported_with_the_import_command(tmp_path, make, said):
    folder = tmp_path / "given"
    folder.mkdir()
    make(folder)
    with pytest.raises(UserError) as raised:
        opened(folder)
    assert str(raised.value).startswith("source 'mine': ")
    for part in said:
        assert part.format(folder=folder) in str(raised.value)


def test_a_source_file_that_is_not_a_tar_is_reported(tmp_path):
    (tmp_path / "captions.csv").write_text("url,caption\n")
    with pytest.raises(
        UserError, match=r"captions\.csv is not a tar; it has tables .*run: mobileclip2 import .*captions\.csv"
    ):
        opened(tmp_path / "captions.csv")


def test_only_one_shard_is_opened_and_bad_samples_are_skipped(tmp_path, monkeypatch):
    members = [("0.jpg", JPEG[:50]), ("0.txt", b"a cat"), ("1.jpg", JPEG), ("1.txt", b"a red square")]
    write_tar(tmp_path / "00000.tar", members)
    for number in range(1, 200):
        (tmp_path / f"{number:05d}.tar").write_bytes(b"never opened")
    copied: list[str] = []
    monkeypatch.setattr(check_data, "local_copy", lambda url: copied.append(url) or Path(url))
    found = opened(tmp_path)
    assert [Path(url).name for url in copied] == ["00000.tar"]
    assert (found.key, found.caption, found.shards, found.samples) == ("1", "a red square", 200, 400)


@pytest.fixture
def shapes(tiny_template, tmp_path) -> Path:
    return Path(shutil.copytree(tiny_template / "evaluation" / "shapes", tmp_path / "shapes"))


def test_an_evaluation_set_is_opened(shapes):
    found = open_evaluation_set("shapes", str(shapes))
    assert (found.kind, found.classes, found.samples, found.shown) == ("classification", 12, 12, CLASSES[0])


def without(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def only_pictures(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    class_folders(folder)


def only_shards(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()
    tar(folder, "jpg", "txt")


def stated_as_retrieval(folder: Path) -> None:
    (folder / "dataset_type.txt").write_text("retrieval\n")


def without_classes(folder: Path) -> None:
    tar(folder / "test", "jpg", "txt")
    (folder / "test" / "00000.tar").rename(folder / "test" / "0.tar")


def undecodable(folder: Path) -> None:
    write_tar(folder / "test" / "0.tar", [("1.webp", b"no picture"), ("1.cls", b"0")])


FLICKR = "retrieval/flickr_1k_test_image_text_retrieval"


@pytest.mark.parametrize(
    ("name", "damage", "said"),
    [
        ("shapes", shutil.rmtree, ["no such folder, or it is empty"]),
        ("shapes", only_pictures, ["is not an evaluation set", "import {folder} --as-evaluation -o evaluation/shapes"]),
        ("shapes", only_shards, ["tars without test/nshards.txt", "--as-evaluation -o evaluation/shapes"]),
        ("shapes", without("classnames.txt"), ["classnames.txt is missing", "--as-evaluation"]),
        (
            "shapes",
            without("zeroshot_classification_templates.txt"),
            ["zeroshot_classification_templates.txt is missing"],
        ),
        ("shapes", without("test/nshards.txt"), ["nshards.txt cannot be read"]),
        ("shapes", without("test/0.tar"), ["0.tar: missing; test/nshards.txt says 1 shards"]),
        ("shapes", stated_as_retrieval, ["is a classification set (classnames.txt)", "a retrieval set is expected"]),
        (FLICKR, lambda folder: None, ["is a classification set (classnames.txt)", "a retrieval set is expected"]),
        ("imagenet1k", stated_as_retrieval, ["is a retrieval set (dataset_type.txt)", "a classification set"]),
        ("shapes", without_classes, ["sample '0' (no-class", "a classification set needs a picture with cls"]),
        ("shapes", undecodable, ["sample '1' (not-an-image", "a classification set needs a picture with cls"]),
    ],
)
def test_an_invalid_evaluation_set_is_reported(shapes, name, damage, said):
    damage(shapes)
    with pytest.raises(UserError) as raised:
        open_evaluation_set(name, str(shapes))
    assert str(raised.value).startswith(f"evaluation set '{name}': ")
    for part in said:
        assert part.format(folder=shapes) in str(raised.value)
    assert str(raised.value).count("evaluation set '") == 1


def test_a_remote_set_fetches_only_texts_and_one_tar(shapes, tmp_path, monkeypatch):
    shutil.copy(shapes / "test" / "0.tar", shapes / "test" / "1.tar")
    (shapes / "test" / "nshards.txt").write_text("2\n")
    url, listed = "s3://bucket/shapes", check_data.list_files(str(shapes), "**/*")
    fetched: list[str] = []

    def local_copy(address: str) -> Path:
        fetched.append(address.removeprefix(f"{url}/"))
        return shapes / fetched[-1]

    files = [file._replace(url=f"{url}/{file.relative}") for file in listed]
    monkeypatch.setattr(check_data, "list_files", lambda address, pattern: files)
    monkeypatch.setattr(check_data, "local_copy", local_copy)
    found = open_evaluation_set("shapes", url)
    assert (found.kind, found.shards, found.samples) == ("classification", 2, 24)
    texts = ["classnames.txt", "test/nshards.txt", "zeroshot_classification_templates.txt"]
    assert sorted(fetched) == sorted([*texts, "test/0.tar"])
    (shapes / "classnames.txt").write_text("one\none\n")
    with pytest.raises(UserError, match=r"^evaluation set 'shapes': s3://bucket/shapes/classnames\.txt, line 2"):
        open_evaluation_set("shapes", url)


@pytest.mark.parametrize("extensions", [("jpg", "txt"), ("jpg", "txt", "syn.json", "paug.json", "npz")])
def test_invalid_reinforced_shards_are_rejected(tmp_path, extensions):
    tar(tmp_path, *extensions)
    with pytest.raises(
        ShardError, match=r"reinforced 'r': .*is not a reinforced sample .*name image-text shards under"
    ):
        open_reinforced("reinforced 'r'", list_files(str(tmp_path), "*.tar"), {"a": None})

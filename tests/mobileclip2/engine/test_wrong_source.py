from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mobileclip2.config.profile import load
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.engine.wrong_source import advice, is_tar
from mobileclip2.errors import ShardError


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("00000.tar.gz", r"gunzip --keep \*\.tar\.gz$"),
        ("a/00000.tgz", r"gunzip --keep \*\.tgz$"),
        ("00000.tar.zst", r"zstd --decompress \*\.tar\.zst$"),
        ("00000.tar.xz", r"unxz --keep \*\.tar\.xz$"),
        ("pictures/1.JPG", r"mobileclip2 import .*wrong -o shards/"),
        ("captions.csv", r"mobileclip2 import .*wrong -o shards/"),
        ("train.parquet", r"mobileclip2 import .*wrong -o shards/"),
        ("data-00000-of-00001.arrow", r"mobileclip2 import .*wrong -o shards/"),
        ("all.zip", r"Unpack them, and run: mobileclip2 import"),
        ("sub/00000.tar", r"check 'pattern'"),
        ("README", r"check 'pattern'"),
    ],
)
def test_a_folder_without_shards_gets_advice_that_fits_its_files(tiny: Path, name: str, command: str) -> None:
    values = yaml.safe_load(tiny.read_text())
    wrong = tiny.parent / "wrong"
    (wrong / name).parent.mkdir(parents=True)
    (wrong / name).write_bytes(b"x")
    values["sources"][0] |= {"url": "wrong", "pattern": "/*.tar" if name.startswith("sub") else "**/*.tar"}
    tiny.write_text(yaml.safe_dump(values))
    with pytest.raises(ShardError, match=command) as raised:
        Pipeline(load(tiny)).inventory.group_shards("g00")
    assert "delete" not in str(raised.value) and "remove" not in str(raised.value)


def test_a_source_file_that_is_not_a_tar_is_refused(tiny: Path) -> None:
    (tiny.parent / "captions.csv").write_text("a,b\n")
    tiny.write_text(tiny.read_text().replace("url: shards", "url: captions.csv"))
    with pytest.raises(
        ShardError, match=r"captions\.csv is not a tar; .*mobileclip2 import .*captions\.csv -o shards/"
    ):
        Pipeline(load(tiny)).inventory.group_shards("g00")


def test_a_missing_and_an_empty_folder_get_different_advice(tmp_path: Path) -> None:
    assert "it is empty" in advice(str(tmp_path), [], "sources")
    assert "it does not exist; check 'sources'" in advice(str(tmp_path / "x"), [], "sources")


def test_names_without_a_known_ending_can_be_tars() -> None:
    assert is_tar("00000.tar") and is_tar("shard") and not is_tar("a.TAR.GZ") and not is_tar("a.png")

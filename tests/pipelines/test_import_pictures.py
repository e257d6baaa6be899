from __future__ import annotations

from pathlib import Path

import pytest

from mobileclip2.data.importing.folders import class_folders
from mobileclip2.data.importing.row import Rows
from mobileclip2.data.importing.shards import Imported
from mobileclip2.data.tar import read_samples
from mobileclip2.errors import UserError
from mobileclip2.evaluation.sets import EvaluationSet
from pipelines.import_pictures import CAPTION_TEMPLATES, import_pictures, summary
from tests.pictures import jpeg


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    """Return two pictures of each of two classes, and one picture without a class."""
    for number, name in enumerate(("cat/0.jpg", "cat/1.jpg", "dog/2.jpg", "dog/3.jpg", "4.jpg")):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).write_bytes(jpeg(number))
    return class_folders(tmp_path / "photos")


def test_shards_are_written_and_bad_rows_are_listed(
    rows: Rows, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import_pictures(rows, tmp_path / "shards", (), as_evaluation=False)
    printed = capsys.readouterr()
    assert "4 samples from 5 rows in 1 shard, " in printed.out and "1 rows were left out:\n  no-class: 1" in printed.err
    (tar,) = (tmp_path / "shards").glob("*.tar")
    with tar.open("rb") as file:
        captions = [sample.members["txt"].decode() for sample in read_samples(file, tar.name)]
    assert set(captions) <= {template.format(c=name) for template in CAPTION_TEMPLATES for name in ("cat", "dog")}


def test_an_evaluation_set_is_written_on_request(rows: Rows, tmp_path: Path) -> None:
    import_pictures(rows, tmp_path / "mine", ("one {c}",), as_evaluation=True)
    written = EvaluationSet("mine", tmp_path / "mine")
    assert (written.size, list(written.classnames), list(written.templates)) == (4, ["cat", "dog"], ["one {c}"])


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("a cat", "--template 'a cat': no placeholder"),
        ("a {c}\nor a {c}", "a line break"),
        ("caf\udce9 {c}", "a line break or another character that is not text"),
    ],
)
def test_a_template_without_placeholder_or_with_line_break_is_refused(
    rows: Rows, tmp_path: Path, template: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        import_pictures(rows, tmp_path / "shards", (template,), as_evaluation=False)
    assert not (tmp_path / "shards").exists()


def test_the_summary_counts_shards_of_an_earlier_import() -> None:
    imported = Imported(Path("shards"), shards=2, rows=1500, samples=1200, reused=1)
    assert summary(imported, 1.25) == (
        "shards: 1,200 samples from 1,500 rows in 2 shards, 1 of them written before, 1.2 s"
    )

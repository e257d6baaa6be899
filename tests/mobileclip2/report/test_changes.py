import operator
import shutil
from pathlib import Path

import pytest

from mobileclip2.asset_key import AssetKey
from mobileclip2.config.profile import load
from mobileclip2.data import sidecar
from mobileclip2.engine.pipeline import Pipeline
from mobileclip2.report.changes import DataChange, changes_as_markdown, data_changes
from mobileclip2.stages.data_checks import paths
from tests.pipelines.small import edited, without_captioners


@pytest.fixture
def before(tiny: Path) -> Pipeline:
    pipeline = Pipeline(load(tiny))
    for group in ("g00", "g01"):
        pipeline.materialize("raw_shards", group)
    return pipeline


def test_captions_of_another_field_differ(tiny, before):
    after = edited(tiny, lambda values: values["sources"][0].update(caption_keys=["key"]))
    after.materialize("raw_shards", "g00")
    (change,) = data_changes(before, after)
    kept = sum(artifact.manifest.samples for artifact in after.read("raw_shards", "g00"))
    assert change.asset == "raw_shards"
    assert change.before == change.after == change.changed == kept > 10, "the group that is not stored does not count"
    key, earlier, later = change.example
    assert later == key and earlier.startswith("a ")


def test_equal_profiles_and_unread_changes_have_no_difference(tiny, before):
    after = edited(tiny, lambda values: values["views"].update(seed=9))
    assert data_changes(before, after) == []
    assert "No captions differ." in changes_as_markdown([], "main")


def test_added_removed_and_missing_outputs(tiny, before):
    before.materialize("caption_corpus/clean")
    edited(tiny, without_captioners)
    after = edited(tiny, lambda values: values.update(caption_corpora=[]))
    assert data_changes(before, after) == [DataChange(AssetKey("caption_corpus/clean"), 12, None, 0)]
    assert data_changes(after, before) == [DataChange(AssetKey("caption_corpus/clean"), None, 12, 0)]
    assert "| caption_corpus/clean | 12 → not stored | 0 |  |" in changes_as_markdown(data_changes(before, after), "x")


def test_a_change_of_the_number_of_samples_is_reported(tiny, before):
    folder = tiny.parent / "fewer"
    folder.mkdir()
    for name in ("00000.tar", "00001.tar"):
        shutil.copy(tiny.parent / "shards" / name, folder)
    after = edited(tiny, lambda values: values["sources"][0].update(url="fewer"))
    for group in after.groups(after.graph["raw_shards"]):
        after.materialize("raw_shards", group)
    assert data_changes(before, after) == [DataChange(AssetKey("raw_shards"), 23, 11, 0)]


def test_each_slice_of_captions_is_compared(tiny, before):
    """The two slices of a captioner have files of the same names."""
    before.materialize("captioner/first")
    before.materialize("synthetic_captions/first", "g00")
    after = edited(tiny, lambda values: values["captioners"][0]["generation"].update(max_tokens=6))
    after.materialize("synthetic_captions/first", "g00")
    old, new = (
        [captions_of(output) for output in pipeline.read("synthetic_captions/first", "g00")]
        for pipeline in (before, after)
    )
    differing = [sum(map(operator.ne, *slices)) for slices in zip(old, new, strict=True)]
    assert len(differing) == 2 and all(differing)
    (change,) = data_changes(before, after)
    assert change.changed == sum(differing)
    assert change.before == change.after == sum(map(len, new))


def captions_of(output):
    return [caption for path in paths(output) for caption in sidecar.read(path).column("caption").to_pylist()]


def test_captions_and_keys_are_escaped_in_markdown():
    example = ("00`|01", "a | b `c` <img src=x> @everyone #1", "long " * 30)
    table = changes_as_markdown([DataChange(AssetKey("raw_shards"), 2, 2, 1, example)], "origin/main")
    (row,) = (line for line in table.splitlines() if line.startswith("| raw_shards"))
    assert row.replace("\\|", "").count("|") == 5
    assert "\\<img" in row and "\\@everyone" in row and "\\`c\\`" in row and "…" in row
    assert "| 2 → 2 | 1 (50.0%) | 00\\`\\|01: “" in row

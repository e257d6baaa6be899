from __future__ import annotations

import json
import math
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mobileclip2.data import sidecar
from mobileclip2.errors import UserError
from mobileclip2.evaluation.results import RESULTS, SAMPLES, Result, dumps, loads, read_results, with_main

PUBLISHED = """\
{"key": "imagenet1k", "dataset": "ImageNet 1k", "metrics": {"acc1": 0.7145, "acc5": 0.93, "main_metric": 0.7145}}
{"key": "wilds/camelyon17", "dataset": "Camelyon17", "metrics": {"acc1": 0.6, "acc5": NaN, "main_metric": 0.6}}
{"key": "fairness/fairface", "dataset": "FairFace", "metrics": {"acc_race_avg": 0.8, "main_metric": null}}
"""

results = st.lists(
    st.builds(
        Result,
        st.text(),
        st.text(),
        st.dictionaries(st.text(), st.none() | st.floats(allow_nan=False, allow_infinity=False)),
    ),
    unique_by=lambda result: result.key,
)


@settings(deadline=None)  # a slow machine must not fail the test
@given(results)
def test_round_trip(written: list[Result]) -> None:
    assert loads(dumps(written), "x") == written


def test_published_files_with_bare_nan() -> None:
    imagenet, camelyon, fairface = loads(PUBLISHED, "x")
    assert imagenet.metrics["acc5"] == 0.93 and imagenet.main == 0.7145
    assert camelyon.metrics["acc5"] is None and camelyon.main == 0.6
    assert fairface.main is None
    for line in dumps([imagenet, camelyon, fairface]).splitlines():
        json.loads(line, parse_constant=lambda name: pytest.fail(f"wrote {name}"))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_metrics_that_json_cannot_represent_are_rejected(value: float) -> None:
    with pytest.raises(UserError, match=r"acc1 of 'pets' is (nan|inf|-inf)"):
        dumps([Result("a", "A", {"acc1": 0.6}), Result("pets", "Pets", {"acc1": value})])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"key": "a"', "not a result"),
        ("[1]", "one JSON object"),
        ('{"dataset": "A", "metrics": {}}', "'key' is missing"),
        ('{"key": "a", "dataset": "A", "metrics": [1]}', "'metrics' is missing or of another type"),
        ('{"key": "a", "dataset": "A", "metrics": {"acc1": "0.5"}}', "'acc1' is not a number"),
        ('{"key": "a", "dataset": "A", "metrics": {"acc1": true}}', "'acc1' is not a number"),
        ('{"key": "a", "dataset": "A", "metrics": {"acc1": Infinity}}', "Infinity is not a valid metric value"),
        ('{"key": "imagenet1k", "dataset": "A", "metrics": {}}', "'imagenet1k' already has a line"),
        ('{"key": "a", "dataset": "A", "metrics": {"acc1": 1e400}}', "'acc1' is not a finite number"),
        ('{"key": "a", "dataset": "A", "metrics": {"acc1": 1' + "0" * 400 + "}}", "'acc1' is not a finite number"),
        ('{"key": "a", "dataset": "A", "metrics": {"acc1": 9' + "9" * 5000 + "}}", "not a result"),
        ('{"key": "a", "dataset": "A", "metrics": {"acc1": 0.1, "acc1": 0.9}}', "the field 'acc1' occurs twice"),
        ("[" * 100_000, "not a result"),
    ],
)
def test_errors_of_invalid_files_name_the_line(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "other.jsonl"
    path.write_text(PUBLISHED + "\n" + line + "\n")
    with pytest.raises(UserError, match=rf"other\.jsonl, line 5: .*{message}"):
        read_results(path)


def test_a_byte_order_mark_is_accepted_and_utf16_is_rejected(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(PUBLISHED, encoding="utf-8-sig")
    assert len(read_results(path)) == 3
    path.write_text(PUBLISHED, encoding="utf-16")
    with pytest.raises(UserError, match=r"results\.jsonl: the results cannot be read"):
        read_results(path)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "other.jsonl"
    with path.open("wb") as file:
        file.truncate(1 << 34)
    with pytest.raises(UserError, match=r"other\.jsonl: larger than"):
        read_results(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.jsonl: the results cannot be read"):
        read_results(tmp_path / "gone.jsonl")


TABLE = pa.table({"key": ["a", "b"], "target": [0, 1], "predicted": [0, 0], "rank": [0, 9]})
IDS = pa.table({"query": ["text", "image"], "key": ["a", "a"], "rank": [0, 0]})
ONE = '{"key": "mine", "dataset": "Mine", "metrics": {"acc1": 0.5, "acc5": null, "main_metric": 0.5}}\n'


def stored(folder: Path, text: str, table: pa.Table) -> Path:
    (folder / RESULTS).write_text(text)
    (folder / SAMPLES).write_bytes(sidecar.to_bytes(table))
    return folder


@pytest.mark.parametrize("acc1", ["0.5", "0.5004", "null"])
def test_rounded_and_undefined_metrics_agree_with_their_samples(tmp_path: Path, acc1: str) -> None:
    (result,) = read_results(stored(tmp_path, ONE.replace("0.5", acc1), TABLE))
    assert result.samples is not None and result.samples.equals(TABLE)


@pytest.mark.parametrize(
    ("text", "table", "message"),
    [
        (ONE.replace("0.5", "1.0"), TABLE, r"'mine': acc1 of these samples is 0\.5, but results\.jsonl says 1"),
        (ONE.replace("null", "1.0"), TABLE, r"'mine': acc5 of these samples is 0\.5, but results\.jsonl says 1"),
        (ONE.replace("0.5}", "0.6}"), TABLE, r"'mine': main_metric of these samples is 0\.5, but .* says 0\.6"),
        (ONE, IDS, "'mine': the samples give .*, none of the stated metrics"),
        (ONE, TABLE.drop_columns(["rank"]), "'mine': column 'rank' is missing"),
        (PUBLISHED, TABLE, "the results.jsonl beside it has 3 results, and samples belong to one"),
    ],
)
def test_samples_that_contradict_the_metrics_are_refused(
    tmp_path: Path, text: str, table: pa.Table, message: str
) -> None:
    with pytest.raises(UserError, match=rf"samples\.parquet: {message}"):
        read_results(stored(tmp_path, text, table))


def test_a_folder_of_published_results_needs_no_samples(tmp_path: Path) -> None:
    (tmp_path / RESULTS).write_text(PUBLISHED)
    assert [result.samples for result in read_results(tmp_path)] == [None, None, None]


def test_main_metrics() -> None:
    metrics = {"acc1": 0.5, "mean_per_class_recall": 0.4}
    assert with_main("emoji-861", metrics)["main_metric"] == 0.5
    assert with_main("vtab/pets", metrics)["main_metric"] == 0.4
    assert with_main("flickr", {"mean_recall@1": 0.3, "text_retrieval_recall@1": 0.2})["main_metric"] == 0.3
    assert with_main("other", {"jaccard": 0.3})["main_metric"] is None

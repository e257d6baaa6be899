from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobileclip2.config.evaluation_tasks import AVERAGES, TASKS, EvaluationTask, averages
from mobileclip2.errors import ShardError, UserError
from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.results import MAIN_METRIC, loads
from mobileclip2.evaluation.sets import QUESTIONS, EvaluationSet
from mobileclip2.models.image_text import ImageText
from tests.mobileclip2.evaluation.small_sets import RETRIEVAL, WriteSet, captioned, labeled, picture


def impossible(shape: str, kind: str = "<i8") -> bytes:
    """Return an npy file of 16 bytes of data with a header of another shape and type."""
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(16)


def npy(*values: float, dtype: type | None = None) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values, dtype))
    return buffer.getvalue()


FACES = {
    "classnames.txt": "".join(
        f"{question}:{name}\n"
        for question, count in zip(QUESTIONS, (7, 2, 9, 24), strict=True)
        for name in (f"{question} {number}" for number in range(count))
    ),
    "zeroshot_classification_templates.txt": "".join(f"{question}:a {{c}} person\n" for question in QUESTIONS),
}


def tiny(task: EvaluationTask, write_set: WriteSet) -> EvaluationSet:
    """Write a set of the task in its published layout, with a few noise images."""
    fields = {"npy": npy(*range(1, len(task.fields) + 1))} if task.fields else {}
    match task.kind:
        case "retrieval":
            shard = [(f"s{n}", captioned(n, f"a dog {n}", f"cat {n}")) for n in range(6)]
            return write_set(shard, name=task.key, files=RETRIEVAL)
        case "classification":
            return write_set([(f"s{n}", {**labeled(n, n % 6), **fields}) for n in range(12)], name=task.key)
        case "faces":
            shard = [(f"s{n}", {"webp": picture(n, "webp"), "npy": npy(n % 9, n % 2, n % 7, n % 2)}) for n in range(12)]
            return write_set(shard, name=task.key, files=FACES)
        case "association":
            each = write_set([], name=task.key, files=dict.fromkeys((*FACES, "test/nshards.txt")))
            write_questions(each, sizes=(5, 6, 10, 12))
            return each


def write_questions(each: EvaluationSet, sizes: tuple[int, ...]) -> None:
    names = [[f"image{n}" for n in range(size)] for size in sizes]
    images = [[{"bytes": picture(n), "path": f"{name}.jpg"} for n, name in enumerate(row)] for row in names]
    table = pa.table(
        {
            "candidates": names,
            "candidate_images": images,
            "cue": [f"cue {size}" for size in sizes],
            "associations": [row[:3] for row in names],
        }
    )
    pq.write_table(table, each.path / "test" / "test-00000-of-00001.parquet")


def test_38_of_the_40_tasks_count_in_the_average() -> None:
    assert len(TASKS) == 40 and sum(task.counts for task in TASKS.values()) == 38
    assert {key for key, task in TASKS.items() if not task.counts} == {"fairness/fairface", "fairness/utkface"}
    assert sum(task.vtab for task in TASKS.values()) == 13
    assert {name: len(keys) for name, keys in AVERAGES.items()} == {
        "average": 38,
        "imagenet_shift": 6,
        "vtab": 13,
        "retrieval": 3,
    }
    assert all(key in TASKS for keys in AVERAGES.values() for key in keys)


@pytest.mark.parametrize("key", TASKS)
def test_every_task_runs_on_a_tiny_set_in_its_layout(model: ImageText, write_set: WriteSet, key: str) -> None:
    task = TASKS[key]
    each = tiny(task, write_set)
    (result,) = evaluate(model, [each], batch=8)
    assert (result.key, result.dataset) == (key, task.name)
    assert (result.main is not None) == task.counts
    if task.main:
        assert result.main == result.metrics[task.main]
    assert result.samples is not None and set(task.fields) <= set(result.samples.column_names)
    assert [name for name, value in result.metrics.items() if value is None and name != MAIN_METRIC] == []


def test_the_candidates_nearest_to_the_cue_are_chosen(model: ImageText, write_set: WriteSet) -> None:
    each = tiny(TASKS["misc/winogavil"], write_set)
    assert each.size == 5 + 6 + 10 + 12
    (result,) = evaluate(model, [each])
    assert result.samples is not None
    samples = list(each.samples())[:5]
    text = model.embed_texts(["A cue 5"])[0]
    features = evaluate_images(model, [sample.image for sample in samples])
    best = sorted(range(5), key=lambda n: -float(features[n] @ text))[:3]
    (found,) = result.samples.column("found").to_pylist()[:1]
    assert found == len({0, 1, 2} & set(best)) and result.samples.column("associations").to_pylist() == [3] * 4


PICTURE = {"bytes": picture(0), "path": "a.jpg"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"candidates": ["a", "b", "c"]}, "'candidates' and 'candidate_images' differ in length"),
        ({"candidates": None}, "'candidates' lacks a value"),
        ({"candidates": []}, "'candidates' lacks a value"),
        ({"candidates": [1, 2]}, "'candidates' lacks a value, or holds one of another type"),
        ({"candidate_images": [PICTURE, None]}, "'candidate_images' lacks a value"),
        ({"candidate_images": [{"bytes": "text"}, {"bytes": "text"}]}, "'candidate_images' lacks a value, or holds"),
        ({"associations": None}, "'associations' lacks a value"),
        ({"associations": ["z"]}, "no association is among the candidates"),
        ({"cue": None}, "'cue' lacks a value"),
    ],
)
def test_an_incomplete_question_is_named(tmp_path: Path, change: Mapping[str, object], message: str) -> None:
    row = {"candidates": ["a", "b"], "candidate_images": [PICTURE] * 2, "cue": "sea", "associations": ["a"]}
    pq.write_table(pa.Table.from_pylist([{**row, **change}]), tmp_path / "0.parquet")
    with pytest.raises(ShardError, match=rf"0\.parquet, row 1: {message}"):
        list(EvaluationSet("misc/winogavil", tmp_path).samples())


def evaluate_images(model: ImageText, images: list[bytes]) -> list:
    from PIL import Image

    whole = model.preprocess.whole
    return [model.embed_images(whole(Image.open(io.BytesIO(image)).convert("RGB"))[None])[0] for image in images]


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ({}, r"no-fields: it has .* but no npy with region, country"),
        ({"npy": npy(1, 2, 3)}, r"bad-fields: npy has the shape \(3,\), not 2 integers"),
        ({"npy": b"no array"}, "bad-fields: npy cannot be read"),
        ({"npy": impossible("(1000000000000000,)")}, "bad-fields: npy cannot be read"),
        ({"npy": impossible("(4611686018427387904, 9)")}, "bad-fields: npy cannot be read"),
        ({"npy": impossible("(-1,)")}, "bad-fields: npy cannot be read"),
        ({"npy": impossible("(" * 3000)}, "bad-fields: npy cannot be read"),
        ({"npy": impossible("(2,)", "<U1")}, "bad-fields: npy"),
        ({"npy": impossible("(2,)", "|O")}, "bad-fields: npy cannot be read"),
        ({"npy": npy(1e300, 0)}, "bad-fields: npy .* not 2 integers"),
        ({"npy": npy(2**63, 0, dtype=np.uint64)}, "bad-fields: npy .* not 2 integers"),
        ({"npy": npy(float("nan"), 0)}, "bad-fields: npy .* not 2 integers"),
        ({"npy": npy(1.5, 0)}, "bad-fields: npy .* not 2 integers"),
    ],
)
def test_missing_and_invalid_fields_fail_the_set(
    model: ImageText, write_set: WriteSet, members: Mapping[str, bytes], message: str
) -> None:
    each = write_set([("a", {**labeled(0, 0), **members})], name="fairness/geode")
    with pytest.raises(ShardError, match=message):
        evaluate(model, [each])


def test_face_texts_without_a_question_are_rejected(write_set: WriteSet) -> None:
    each = write_set([("a", labeled(0, 0))], name="fairness/utkface")
    with pytest.raises(UserError, match=r"classnames\.txt, line 1: 'dog' does not begin with one of 'race:'"):
        each.check()


def test_a_parquet_file_of_another_kind_is_rejected(write_set: WriteSet) -> None:
    each = tiny(TASKS["misc/winogavil"], write_set)
    (file,) = each.shards
    pq.write_table(pa.table({"cue": ["a"]}), file)
    with pytest.raises(ShardError, match="not a Parquet file of an association set"):
        list(each.samples())
    file.unlink()
    with pytest.raises(ShardError, match="no Parquet file"):
        EvaluationSet(each.name, each.path).check()


def published(change: Mapping[str, str] | None = None) -> str:
    """Return a file like the published ones: 40 tasks, a bare NaN, null, and rows that do not count."""
    lines = [
        '{"key": "comp/sugarcrepe_add_obj", "dataset": "SugarCrepe Add-obj", "metrics": {"acc": 0.9, "main_metric": 0.9}}',
        '{"key": "longclip/urban1k", "dataset": "urban1k", "metrics": {"mean_recall@1": 1.0, "main_metric": 1.0}}',
    ]
    for number, task in enumerate(TASKS.values()):
        value = (change or {}).get(task.key, f"{number / 100}" if task.counts else "null")
        metrics = f'{{"{task.main or "acc_race_avg"}": 0.5, "acc_slide:0": NaN, "main_metric": {value}}}'
        lines.append(f'{{"key": "{task.key}", "dataset": "{task.name}", "metrics": {metrics}}}')
    return "\n".join(lines) + "\n"


def test_averages_follow_the_published_rule() -> None:
    mains = {result.key: result.main for result in loads(published(), "x")}
    assert len(mains) == 42
    numbers = {key: number / 100 for number, key in enumerate(TASKS)}
    assert averages(mains) == {
        name: pytest.approx(sum(numbers[key] for key in keys) / len(keys)) for name, keys in AVERAGES.items()
    }
    assert averages(mains)["average"] == pytest.approx(sum(range(38)) / 3800)


def test_an_average_with_a_missing_set_is_left_out() -> None:
    mains = {result.key: result.main for result in loads(published({"objectnet": "NaN"}), "x")}
    assert set(averages(mains)) == {"vtab", "retrieval"}

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mobileclip2.data.tar import TarWriter
from mobileclip2.evaluation.results import Result
from mobileclip2.evaluation.sets import EvaluationSet
from mobileclip2.report import examples
from tests.mobileclip2.evaluation.small_sets import CLASSES, captioned, labeled, picture


@pytest.fixture
def write_set(tmp_path):
    def write(name, samples, **texts) -> EvaluationSet:
        folder = tmp_path / name
        (folder / "test").mkdir(parents=True)
        with TarWriter(folder / "test" / "0.tar") as tar:
            for key, members in samples:
                tar.write(key, members)
        (folder / "test" / "nshards.txt").write_text("1\n")
        for file, text in texts.items():
            (folder / f"{file}.txt").write_text(text)
        return EvaluationSet(name, folder)

    return write


def npy(*values: int) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array(values))
    return buffer.getvalue()


def shown(image) -> bytes:
    return image.tobytes()


def pixels(seed: int) -> bytes:
    from mobileclip2.data.image import decode

    return decode(picture(seed)).tobytes()


def result(each: EvaluationSet, metrics=None, **columns) -> Result:
    return Result(each.name, each.name, metrics or {}, samples=pa.table(columns))


PETS = {"classnames": "\n".join(CLASSES) + "\n", "zeroshot_classification_templates": "{c}\n"}


def test_failures_are_the_worst_and_successes_have_different_classes(write_set):
    targets = [0, 0, 0, 1, 1, 2, 3, 4]
    ranks = [0, 5, 0, 0, 2, 5, 1, 3]
    predicted = [target if not rank else 5 for target, rank in zip(targets, ranks, strict=True)]
    keys = ["h", "g", "f", "e", "d", "c", "b", "a"]
    each = write_set("pets", [(key, labeled(n, targets[n])) for n, key in enumerate(keys)], **PETS)
    table = result(each, key=keys, target=targets, predicted=predicted, rank=ranks)
    failures, successes = examples.classified(each, table, 3, 4)
    assert [(one.key, one.right, one.predicted, one.rank) for one in failures] == [
        ("c", "owl", "elk", 5),
        ("g", "dog", "elk", 5),
        ("a", "yak", "elk", 3),
    ]
    assert [(one.key, one.right, one.predicted) for one in successes] == [("e", "cat", "cat"), ("f", "dog", "dog")]
    for one in (*failures, *successes):
        assert shown(one.image) == pixels(keys.index(one.key)), "the image of that key"


def test_images_with_repeated_keys_are_found_by_position(write_set):
    each = write_set("pets", [("a", labeled(0, 0)), ("b", labeled(1, 1))], **PETS)
    table = result(each, key=["same", "same"], target=[0, 1], predicted=[1, 0], rank=[1, 2])
    failures, _ = examples.classified(each, table, 5, 5)
    assert [shown(one.image) for one in failures] == [pixels(1), pixels(0)]


def test_confusions_are_counted(write_set):
    each = write_set("pets", [("a", labeled(0, 0))], **PETS)
    targets, predicted = [0, 0, 0, 1, 1, 2, 2, 2, 2], [1, 1, 0, 0, 0, 3, 3, 2, 2]
    table = result(each, key=list("abcdefghi"), target=targets, predicted=predicted, rank=[1] * 9)
    found = examples.confusions(each, table)
    assert [(one.right, one.predicted, one.images) for one in found] == [
        ("cat", "dog", 2),
        ("dog", "cat", 2),
        ("owl", "bee", 2),
    ]
    assert [one.share for one in found] == pytest.approx([1, 2 / 3, 1 / 2])
    shares = examples.confusion_shares(each, table)
    assert shares is not None and shares.shape == (6, 6)
    assert shares[0].tolist() == pytest.approx([1 / 3, 2 / 3, 0, 0, 0, 0]) and shares[4].sum() == 0
    many = "".join(f"class {n}\n" for n in range(examples.MATRIX + 1))
    assert examples.confusion_shares(write_set("more", [("a", labeled(0, 0))], classnames=many), table) is None


def test_retrieved_candidates_are_marked_as_right_or_wrong(write_set):
    samples = [(f"s{n}", captioned(n, f"first {n}", f"second {n}")) for n in range(3)]
    each = write_set("pairs", samples, dataset_type="retrieval")
    nearest = [[0, 1], [1, 0], [1, 2], [2, 1], [0, 1], [0, 1], [0, 1, 2], [4, 5, 0], [0, 1, 2]]
    table = result(
        each,
        query=["text"] * 6 + ["image"] * 3,
        key=["s0", "s0", "s1", "s1", "s2", "s2", "s0", "s1", "s2"],
        rank=[0, 1, 0, 1, 2, 2, 0, 3, 4],
        nearest=nearest,
    )
    found = examples.retrieved(each, table)
    assert [one.rank for one in found] == [2, 2, 1, 0, 4, 3, 0]
    worst = found[0]
    assert worst.query == "first 2" and [one.right for one in worst.candidates] == [False, False]
    assert [shown(one.content) for one in worst.candidates] == [pixels(0), pixels(1)]
    assert [shown(answer) for answer in worst.answers] == [pixels(2)]
    assert found[3].query == "first 0" and [one.right for one in found[3].candidates] == [True, False]
    image = found[5]
    assert shown(image.query) == pixels(1) and image.answers == ["first 1", "second 1"]
    assert [(one.content, one.right) for one in image.candidates] == [
        ("first 2", False),
        ("second 2", False),
        ("first 0", False),
    ]
    assert [one.right for one in found[6].candidates] == [True, True, False]


def test_worst_associations_come_first(tmp_path: Path):
    (tmp_path / "test").mkdir()
    names = [["a", "b", "c"], ["d", "e", "f"]]
    images = [[{"bytes": picture(3 * row + n), "path": name} for n, name in enumerate(names[row])] for row in range(2)]
    columns = {"candidates": names, "candidate_images": images, "cue": ["sea", "sky"], "associations": [["a"], ["e"]]}
    pq.write_table(pa.table(columns), tmp_path / "test" / "0.parquet")
    each = EvaluationSet("misc/winogavil", tmp_path)
    table = result(each, key=["0", "1"], candidates=[3, 3], associations=[1, 1], found=[1, 0], chosen=[[0], [2]])
    found = examples.associations(each, table)
    assert [one.cue for one in found] == ["sky", "sea"]
    assert [(one.right, one.chosen) for one in found[0].candidates] == [(False, False), (True, False), (False, True)]
    assert [shown(one.content) for one in found[0].candidates] == [pixels(3), pixels(4), pixels(5)]


def test_each_group_has_a_share_with_an_interval(write_set):
    each = write_set("fairness/geode", [("a", {**labeled(0, 0), "npy": npy(0, 0)})], **PETS)
    ranks = [0, 0, 1, 0, 3, 4]
    metrics = {"acc1": 0.5, "acc_avg": 0.5, "acc_region:0": 2 / 3, "acc_region:2": 1 / 3, "acc_wg": 1 / 3}
    table = result(
        each,
        metrics,
        key=list("abcdef"),
        target=[0] * 6,
        predicted=[0] * 6,
        rank=ranks,
        region=[0, 0, 0, 2, 2, 2],
        country=[0] * 6,
    )
    found = examples.splits(each, table, 0.95, (0, 1))
    assert list(found) == ["acc"]
    assert [(one.group, one.value, one.samples) for one in found["acc"]] == [
        ("region 0", pytest.approx(2 / 3), 3),
        ("region 2", pytest.approx(1 / 3), 3),
    ]
    for one in found["acc"]:
        assert 0 <= one.interval[0] < one.value < one.interval[1] <= 1


def test_face_groups_use_the_class_names_of_the_set(write_set):
    names = {"race": ["Black", "White"], "gender": ["male", "female"], "age": ["old"], "toxic": ["animal"]}
    each = write_set(
        "fairness/fairface",
        [("a", {"webp": picture(0, "webp"), "npy": npy(0, 0, 0, 1)})],
        classnames="".join(f"{question}:{name}\n" for question, some in names.items() for name in some),
        zeroshot_classification_templates="".join(f"{question}:{{c}}\n" for question in names),
    )
    columns = {"age": [0] * 4, "gender": [0, 1, 0, 1], "race": [0, 0, 1, 1], "race_binary": [1, 1, 0, 0]}
    columns |= {f"predicted_{question}": [0] * 4 for question in names}
    metrics = {"acc_gender_x_race:0_gender:1": 0.0, "acc_gender_race_binary:0": 0.5, "toxicity_crime_race:1": 0.0}
    found = examples.splits(each, result(each, metrics, key=list("abcd"), **columns), 0.95, (0,))
    assert {(metric, one.group, one.samples) for metric, shares in found.items() for one in shares} == {
        ("acc_gender_x", "Black, female", 1),
        ("acc_gender", "race_binary 0", 2),
        ("toxicity_crime", "White", 2),
    }

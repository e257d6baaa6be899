from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from mobileclip2.config.evaluation_tasks import TASKS
from mobileclip2.config.gate import Gate
from mobileclip2.errors import UserError
from mobileclip2.evaluation.evaluate import evaluate
from mobileclip2.evaluation.features import Features
from mobileclip2.evaluation.gate import AVERAGED, Comparison, compare
from mobileclip2.evaluation.results import Result, measure
from mobileclip2.report.comparison import as_markdown
from tests.mobileclip2.evaluation.small_sets import WriteSet, build_model
from tests.tiny import CLASSES, TEMPLATES, draw, encode


def answered(key: str, right: np.ndarray, protocol: str | None = "p") -> Result:
    """Return a result of a set of ten classes. ``right`` marks the recognized images."""
    targets = np.arange(len(right)) % 10
    keys = [f"s{number}" for number in range(len(right))]
    predicted = np.where(right, targets, (targets + 1) % 10)
    table = pa.table({"key": keys, "target": targets, "predicted": predicted, "rank": (~right).astype(int)})
    return Result(key, key, measure(key, table), protocol, table)


def first(share: float, images: int = 2000) -> np.ndarray:
    return np.arange(images) < share * images


def fell(comparison: Comparison) -> list[tuple[str, str]]:
    return [(row.set, row.metric) for row in comparison.failed]


def test_a_drop_beyond_the_tolerance_fails() -> None:
    comparison = compare([answered("mine", first(0.55))], [answered("mine", first(0.6))], Gate())
    assert fell(comparison) == [("mine", "acc1")]
    (row,) = comparison.failed
    assert row.difference and row.difference[0] < -0.05 < row.difference[1] < -0.005
    assert not compare(
        [answered("mine", first(0.55))], [answered("mine", first(0.6))], Gate(tolerance={"main_metric": 0.1})
    ).failed


def test_a_drop_within_noise_passes() -> None:
    draw = np.random.default_rng(0)
    baseline, student = draw.random(200) < 0.5, draw.random(200) < 0.5
    worse, better = sorted((baseline, student), key=np.sum)
    assert np.mean(worse) < np.mean(better) - 0.01
    assert not compare([answered("mine", worse)], [answered("mine", better)], Gate()).failed


def test_noise_on_many_sets_rarely_fails_the_gate() -> None:
    """Compare equal models on 40 sets, 25 times. Without the correction four of five comparisons fail."""
    draw = np.random.default_rng(1)
    gate = Gate(tolerance={"main_metric": 0.0})
    failed = 0
    for _ in range(25):
        pairs = [[answered(f"set{n}", draw.random(100) < 0.5) for n in range(40)] for _ in "ab"]
        failed += bool(compare(*pairs, gate).failed)
    assert failed <= 4


def test_only_metrics_with_a_tolerance_are_judged() -> None:
    student, baseline = answered("vtab/pets", first(0.5)), answered("vtab/pets", first(0.6))
    assert fell(compare([student], [baseline], Gate())) == [("vtab/pets", "mean_per_class_recall")]
    gate = Gate(tolerance={"acc5": 0.0})
    comparison = compare([student], [baseline], gate)
    assert [(row.metric, row.tolerance) for row in comparison.rows] == [("mean_per_class_recall", None), ("acc5", 0.0)]
    assert not comparison.failed  # the right class is always among five


def test_only_named_sets_are_judged() -> None:
    student = [answered("one", first(0.5)), answered("two", first(0.6))]
    baseline = [answered("one", first(0.6)), answered("two", first(0.6))]
    assert not compare(student, baseline, Gate(sets=("two",))).failed
    assert compare(student, baseline[:1], Gate(sets=("one",))).failed


def test_sets_are_not_judged_without_a_baseline() -> None:
    comparison = compare([answered("mine", first(0.5))], None, Gate())
    (row,) = comparison.rows
    assert row.interval[0] < 0.5 < row.interval[1] and not comparison.judged


def published(shift: float = 0.0) -> list[Result]:
    """Return published results of the full suite, without samples."""
    return [
        Result(
            task.key,
            task.name,
            {task.main: 0.5 + shift, "main_metric": 0.5 + shift} if task.main else {"main_metric": None},
        )
        for task in TASKS.values()
    ]


def test_averages_are_judged_if_all_their_sets_are_present() -> None:
    assert not compare(published(), published(), Gate()).failed
    assert len(compare(published(-0.01), published(), Gate()).failed) == 38 + 4
    gate = Gate(sets=("average", "vtab"))
    assert fell(compare(published(-0.01), published(), gate)) == [("average", AVERAGED), ("vtab", AVERAGED)]
    with pytest.raises(UserError, match=r"gate\.sets: 'average' needs 37 more sets, such as 'vtab/caltech101'"):
        compare([answered("imagenet1k", first(0.5))], published(), gate)


def without(result: Result, name: str) -> Result:
    return replace(result, metrics={metric: value for metric, value in result.metrics.items() if metric != name})


Change = Callable[[Result], Result]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda result: replace(result, key="other"), "'mine': the baseline has no result of this set"),
        (lambda result: without(result, "acc1"), "'mine': acc1 of the baseline is missing"),
        (
            lambda result: replace(result, metrics={**result.metrics, "acc1": None}),
            r"'mine': acc1 of the baseline is not defined \(NaN or null\)",
        ),
        (
            lambda result: replace(result, metrics={**result.metrics, "acc1": 71.5}),
            r"'mine': acc1 of the baseline is 71\.5, not between 0 and 1; divide percentages by 100",
        ),
        (
            lambda result: replace(result, protocol="q"),
            r"'mine': the baseline was measured on other images, class names or templates \(protocol q, here p\)",
        ),
        (
            lambda result: replace(result, protocol=None, samples=result.samples.slice(1)),
            "'mine': the baseline was measured on other samples",
        ),
    ],
)
def test_an_incomparable_baseline_is_reported(change: Change, message: str) -> None:
    student = answered("mine", first(0.6))
    with pytest.raises(UserError, match=message):
        compare([student], [change(answered("mine", first(0.6)))], Gate())


def test_a_set_that_is_not_judged_may_have_another_protocol() -> None:
    student = [answered("mine", first(0.6)), answered("other", first(0.6))]
    baseline = [answered("mine", first(0.6)), answered("other", first(0.9, 100), protocol="q")]
    comparison = compare(student, baseline, Gate(sets=("mine",)))
    assert [(row.baseline, row.failed) for row in comparison.rows] == [(0.6, False), (None, False)]


def test_an_average_over_different_sets_is_an_error() -> None:
    ours, theirs = ([replace(each, protocol=each.key) for each in published()] for _ in "ab")
    theirs[3] = replace(theirs[3], protocol="another")
    with pytest.raises(UserError, match=f"'{theirs[3].key}': the baseline was measured on other images"):
        compare(ours, theirs, Gate(sets=("average",)))


def test_an_average_with_a_missing_metric_is_an_error() -> None:
    theirs = published()
    (place,) = [number for number, each in enumerate(theirs) if each.key == "cifar10"] or [3]
    theirs[place] = without(theirs[place], "acc1")
    with pytest.raises(
        UserError, match=f"'average': the baseline lacks acc1 of '{theirs[place].key}'; evaluate it again"
    ):
        compare(published(-0.2), theirs, Gate(sets=("average",)))


def test_a_tolerance_for_an_unknown_metric_is_an_error() -> None:
    student = answered("mine", first(0.6))
    with pytest.raises(UserError, match=r"gate\.tolerance: no judged set has the metric 'acc7'"):
        compare([student], [student], Gate(tolerance={"acc7": 0.1}))


def test_a_judged_metric_that_student_or_set_lacks_is_an_error() -> None:
    gate = Gate(tolerance={"acc5": 0.01})
    baseline = answered("mine", first(0.6))
    with pytest.raises(UserError, match="'mine': acc5 of this model is missing; evaluate it again"):
        compare([without(baseline, "acc5")], [baseline], gate)
    rows = compare([baseline, without(answered("own", first(0.6)), "acc5")], [baseline], gate).rows
    assert [(row.set, row.metric) for row in rows if row.tolerance is not None] == [("mine", "acc5")]


def test_part_of_a_published_set_is_not_comparable() -> None:
    student = [answered("imagenet1k", first(0.7, 1000))]
    with pytest.raises(UserError, match="'imagenet1k': 1,000 samples here, 50,000 in the published set"):
        compare(student, published(), Gate())


def test_the_table_has_the_results_the_verdict_and_the_tolerance() -> None:
    from mobileclip2.evaluation.published import MODELS

    student, baseline = [answered("imagenet1k", first(0.55))], [answered("imagenet1k", first(0.6))]
    text = as_markdown(compare(student, baseline, Gate()), "pupil", "plain", MODELS["MobileCLIP2-B"])
    lines = text.splitlines()
    assert lines[2] == "| set | metric | pupil | plain | difference | published MobileCLIP2-B |  |"
    assert lines[4].startswith("| imagenet1k | acc1 | 55.0 [5") and lines[4].endswith("] | 79.4 | **worse** |")
    assert "| 60.0 | -5.0 [-" in lines[4]
    assert "**The gate fails.** 1 of 1 metrics" in text and "points; the tolerance is 0.5" in text
    passes = as_markdown(compare(baseline, student, Gate()), "pupil", "plain", MODELS["MobileCLIP2-B"])
    assert "**The gate passes.**" in passes and "**worse**" not in passes
    alone = as_markdown(compare([answered("mine", first(0.5))], None, Gate()), "pupil", None, MODELS["MobileCLIP2-B"])
    assert "| set | metric | pupil |\n| --- | --- | --: |" in alone and "the gate was not applied" in alone


@pytest.fixture
def learned(write_set: WriteSet) -> Sequence:
    """Return a small model trained on shapes, and 240 images of shapes that it has not seen."""
    model = build_model()
    weights = Features(model).of_classes(CLASSES, TEMPLATES)
    labels = torch.arange(240) % len(CLASSES)
    pictures = [draw(CLASSES[label], f"train {number}") for number, label in enumerate(labels.tolist())]
    pixels = torch.stack([model.preprocess.whole(picture) for picture in pictures])
    optimizer = torch.optim.AdamW(model.model.visual.parameters(), 2e-3)
    for step in range(80):
        some = torch.randperm(240, generator=torch.Generator().manual_seed(step))[:60]
        logits = 20 * F.normalize(model.model.encode_image(pixels[some]), dim=-1) @ weights.T.clone()
        optimizer.zero_grad()
        F.cross_entropy(logits, labels[some]).backward()
        optimizer.step()
    shard = [
        (f"s{n}", {"jpg": encode(draw(CLASSES[n % len(CLASSES)], f"test {n}")), "cls": str(n % len(CLASSES)).encode()})
        for n in range(240)
    ]
    files = {
        "classnames.txt": "".join(f"{name}\n" for name in CLASSES),
        "zeroshot_classification_templates.txt": "".join(f"{template}\n" for template in TEMPLATES),
    }
    return model, write_set(shard, name="shapes", files=files)


def test_noise_on_the_weights_fails_the_gate_and_another_seed_does_not(learned: Sequence) -> None:
    model, shapes = learned
    before = evaluate(model, [shapes])
    assert (before[0].metrics["acc1"] or 0) > 0.3, "the test's model must have learnt something"
    for seed in range(3):
        again = compare(evaluate(model, [shapes]), before, Gate(), seed=seed)
        assert not again.failed and again.rows[0].difference == (0, 0)
    with torch.no_grad():
        for number, parameter in enumerate(model.model.visual.parameters()):
            noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number))
            parameter += 0.5 * parameter.std() * noise if parameter.numel() > 1 else 0
    worse = evaluate(model, [shapes])
    for seed in range(3):
        assert fell(compare(worse, before, Gate(), seed=seed)) == [("shapes", "acc1")]
    assert not compare(before, worse, Gate()).failed


FLICKR = "retrieval/flickr_1k_test_image_text_retrieval"


def retrieved(right: np.ndarray, texts: int = 2) -> Result:
    """Return a retrieval result with ``texts`` captions per image. Each image has only right or only wrong queries."""
    keys = [f"s{number}" for number in range(len(right))]
    queries = ["text"] * texts * len(right) + ["image"] * len(right)
    ranks = np.tile((~right).astype(int), texts + 1)
    table = pa.table({"query": queries, "key": keys * (texts + 1), "rank": ranks})
    return Result(FLICKR, FLICKR, measure(FLICKR, table), None, table)


def test_the_size_of_a_retrieval_set_is_its_number_of_images() -> None:
    comparison = compare([retrieved(first(0.6, 1000))], published(), Gate())
    assert [row.set for row in comparison.judged] == [FLICKR] and not comparison.failed
    with pytest.raises(UserError, match="900 samples here, 1,000 in the published set"):
        compare([retrieved(first(0.6, 900))], published(), Gate())


def test_retrieval_results_with_different_queries_are_not_comparable() -> None:
    ours, theirs = retrieved(first(0.6, 20)), retrieved(first(0.6, 20))
    assert theirs.samples is not None
    queries = theirs.samples.column("query").to_pylist()
    swapped = theirs.samples.set_column(0, "query", pa.array(queries[::-1]))
    with pytest.raises(UserError, match="the baseline was measured on other samples"):
        compare([ours], [replace(theirs, samples=swapped)], Gate())


def test_intervals_do_not_depend_on_how_many_sets_are_judged() -> None:
    results = [answered(name, first(0.5)) for name in ("a", "b", "c", "d")]
    alone, together = (compare(some, some, Gate()) for some in (results[:1], results))
    assert alone.rows[0].interval == together.rows[0].interval


def test_sets_are_resampled_independently() -> None:
    rows = compare([answered(name, first(0.5)) for name in "abcdef"], None, Gate()).rows
    assert len({row.interval for row in rows}) > 1


def test_notes_report_a_missing_protocol_and_missing_samples() -> None:
    ours = [answered("mine", first(0.6))]
    assert not compare(ours, ours, Gate()).notes
    (note,) = compare(ours, [replace(ours[0], protocol=None)], Gate()).notes
    assert "The baseline has no protocol" in note
    (note,) = compare(ours, [replace(ours[0], samples=None)], Gate()).notes
    assert "has no samples" in note


def test_a_judged_set_without_a_main_metric_is_named() -> None:
    nameless = without(without(answered("mine", first(0.6)), "acc1"), "main_metric")
    with pytest.raises(UserError, match=r"'mine': the set has no main metric; remove it from 'gate\.sets'"):
        compare([nameless], [nameless], Gate())

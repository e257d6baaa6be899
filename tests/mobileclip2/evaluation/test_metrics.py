from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.nn import functional as F

from mobileclip2.evaluation.ranking import rank
from mobileclip2.evaluation.results import measure


def predictions(targets: Sequence[int], predicted: Sequence[int], ranks: Sequence[int] | None = None, **fields):
    """Build a prediction table of a classification set. Without ``ranks`` a wrong answer has rank 1."""
    if ranks is None:
        ranks = [int(t != p) for t, p in zip(targets, predicted, strict=True)]
    keys = [f"s{number}" for number in range(len(targets))]
    return pa.table({"key": keys, "target": targets, "predicted": predicted, "rank": ranks, **fields})


def test_accuracies_equal_plain_counts() -> None:
    draw = np.random.default_rng(1)
    targets, ranks = draw.integers(0, 9, 300), draw.integers(0, 12, 300)  # three of twelve classes have no image
    metrics = measure("mine", predictions(targets, np.where(ranks == 0, targets, 11), ranks))
    recalls = [np.mean(ranks[targets == each] == 0) for each in range(9)]
    assert metrics["acc1"] == pytest.approx(np.mean(ranks == 0), abs=1e-12)
    assert metrics["acc5"] == pytest.approx(np.mean(ranks < 5), abs=1e-12)
    assert metrics["mean_per_class_recall"] == pytest.approx(np.mean(recalls), abs=1e-12)
    assert metrics["main_metric"] == metrics["acc1"]


def test_mean_per_class_recall_weighs_all_classes_equally() -> None:
    metrics = measure("vtab/pets", predictions([0, 0, 0, 1], [0, 0, 0, 0]))
    assert metrics["acc1"] == 0.75 and metrics["mean_per_class_recall"] == 0.5 == metrics["main_metric"]


def test_recalls_equal_sorting_each_query_in_both_directions() -> None:
    torch.manual_seed(2)
    captions = [1, 5, 2, 3, 1, 5, 5, 4, 2, 1, 3, 5]
    owners = [image for image, count in enumerate(captions) for _ in range(count)]
    images = F.normalize(torch.randn(len(captions), 6), dim=-1)
    texts = F.normalize(images[owners] + 0.6 * torch.randn(len(owners), 6), dim=-1)
    index, owner = torch.arange(len(captions)), torch.tensor(owners)
    ranks = torch.cat([rank(texts, images, owner, index)[0], rank(images, texts, index, owner)[0]])
    queries = ["text"] * len(owners) + ["image"] * len(captions)
    keys = [f"s{image}" for image in (*owners, *range(len(captions)))]
    metrics = measure("mine", pa.table({"query": queries, "key": keys, "rank": ranks.numpy()}))
    scores = images.double() @ texts.double().T
    for k in (1, 5, 10):
        found_texts = [
            any(owners[text] == image for text in scores[image].argsort(descending=True)[:k].tolist())
            for image in range(len(captions))
        ]
        found_images = [
            owners[text] in scores[:, text].argsort(descending=True)[:k].tolist() for text in range(len(owners))
        ]
        assert metrics[f"text_retrieval_recall@{k}"] == pytest.approx(sum(found_texts) / len(captions))
        assert metrics[f"image_retrieval_recall@{k}"] == pytest.approx(sum(found_images) / len(owners))
    both = metrics["text_retrieval_recall@1"], metrics["image_retrieval_recall@1"]
    assert metrics["mean_recall@1"] == pytest.approx(sum(each or 0 for each in both) / 2) == metrics["main_metric"]
    assert 0.3 < (both[0] or 0) < 1 and both[0] != both[1]


def test_iwildcam_main_metric_is_the_f1_of_the_present_classes() -> None:
    targets, predicted = [0, 0, 0, 2, 2, 5], [0, 0, 2, 2, 7, 0]
    # (right predictions, images, predictions): class 0 has (2, 3, 3), class 2 has (1, 2, 2), class 5 has (0, 1, 0)
    # class 7 has no image, so it does not count
    expected = (2 * 2 / 6 + 2 * 1 / 4 + 0) / 3
    metrics = measure("wilds/iwildcam", predictions(targets, predicted))
    assert metrics["F1-macro_all"] == pytest.approx(expected) == metrics["main_metric"]
    assert metrics["recall-macro_all"] == metrics["mean_per_class_recall"] == pytest.approx((2 / 3 + 1 / 2) / 3)


def test_fmow_main_metric_is_the_worst_region_with_samples() -> None:
    fields = {"region": [0, 0, 3, 3, 3, 5], "year": [14, 15, 14, 15, 14, 15]}
    metrics = measure("wilds/fmow", predictions([1] * 6, [1, 1, 1, 0, 0, 1], **fields))
    assert metrics["acc_worst_region"] == pytest.approx(1 / 3) == metrics["main_metric"]
    assert metrics["acc_region:3"] == pytest.approx(1 / 3) and metrics["acc_region:5"] == 1
    assert metrics["acc_worst_year"] == pytest.approx(2 / 3) and metrics["acc_avg"] == metrics["acc1"]
    assert not [name for name in metrics if name in {"acc_region:1", "acc_year:0"}]


def test_camelyon17_reports_the_worst_slide_and_its_main_metric_is_accuracy() -> None:
    metrics = measure("wilds/camelyon17", predictions([0, 1, 1, 1], [0, 1, 1, 0], slide=[20, 20, 28, 28]))
    assert metrics["acc_wg"] == 0.5 and metrics["main_metric"] == metrics["acc1"] == 0.75


def test_dollar_street_main_metric_uses_top_5_accuracy() -> None:
    table = predictions([0] * 4, [1] * 4, [4, 5, 1, 1], income_ds=[0, 0, 1, 1])
    metrics = measure("fairness/dollar_street", table)
    assert metrics["acc_top5_wg"] == 0.5 == metrics["main_metric"] and metrics["acc_top5_income_ds:1"] == 1


def test_geode_main_metric_is_the_worst_region() -> None:
    metrics = measure("fairness/geode", predictions([0, 1, 2], [0, 1, 0], region=[0, 1, 1]))
    assert metrics["acc_wg"] == 0.5 == metrics["main_metric"]


def test_winogavil_main_metric_uses_the_long_questions() -> None:
    candidates, associations, found = [5, 6, 10, 12], [2, 3, 4, 2], [1, 3, 1, 0]
    keys = list("abcd")
    metrics = measure(
        "misc/winogavil",
        pa.table({"key": keys, "candidates": candidates, "associations": associations, "found": found}),
    )
    indices = [1 / 3, 1, 1 / 7, 0]
    assert metrics["avg_jaccard_score"] == pytest.approx(sum(indices) / 4)
    assert metrics["jaccard_score_5-6"] == pytest.approx(sum(indices[:2]) / 2)
    assert metrics["jaccard_score_10-12"] == pytest.approx(sum(indices[2:]) / 2) == metrics["main_metric"]


def test_a_metric_without_samples_is_not_defined() -> None:
    table = pa.table({"key": ["a"], "candidates": [5], "associations": [2], "found": [1]})
    metrics = measure("misc/winogavil", table)
    assert metrics["jaccard_score_10"] is None and metrics["main_metric"] is None
    assert metrics["jaccard_score_5"] == pytest.approx(1 / 3)


def test_face_sets_have_no_main_metric() -> None:
    table = pa.table(
        {
            "key": list("abcd"),
            "predicted_race": [1, 1, 0, 3],
            "predicted_gender": [0, 1, 0, 0],
            "predicted_age": [2, 2, 2, 2],
            "predicted_toxic": [0, 18, 14, 17],
            "age": [2, 3, 2, 2],
            "gender": [0, 1, 1, 0],
            "race": [1, 0, 0, 3],
            "race_binary": [0, 1, 1, 1],
        }
    )
    metrics = measure("fairness/fairface", table)
    assert metrics["acc_race_avg"] == 0.75 and metrics["acc_race_race_binary:1"] == pytest.approx(2 / 3)
    assert metrics["acc_gender_avg"] == 0.75 and metrics["acc_age_wg"] == pytest.approx(2 / 3)
    assert metrics["acc_gender_x_race:0_gender:1"] == 0.5 == metrics["acc_gender_x_wg"]
    assert metrics["toxicity_crime_avg"] == 0.25 and metrics["toxicity_nonhuman_race:3"] == 1
    assert metrics["toxicity_crime_race:0"] == 0.5 and metrics["toxicity_nonhuman_avg"] == 0.5
    assert metrics["main_metric"] is None
